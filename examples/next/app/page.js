// Rendered for each request, so that the page shows who serves it.
export const dynamic = "force-dynamic";

export default function Page() {
  return <h1>{`Next.js as user ${process.getuid()}`}</h1>;
}
