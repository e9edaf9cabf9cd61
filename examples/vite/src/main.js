document.querySelector("h1").textContent += `, at ${location.pathname}`;
