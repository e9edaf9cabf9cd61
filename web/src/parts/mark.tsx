// The sign of the product.
export function Mark() {
  return (
    <svg className="mark" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="8" />
      <path d="M7 11l4.5 11L16 12l4.5 10L25 11" />
    </svg>
  );
}
