// A web server of Go's standard library.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Go as user %d\n", os.Getuid())
	})
	log.Fatal(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
