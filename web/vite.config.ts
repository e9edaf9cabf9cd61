import react from '@vitejs/plugin-react';
import { defineConfig } from 'vitest/config';

// `npm run dev` serves the sources and passes the API on to a control plane that runs at this address.
const controlPlane = process.env.WISEHOSTING_URL ?? 'http://127.0.0.1:8081';

export default defineConfig({
  plugins: [react()],
  server: { proxy: { '/v1': controlPlane, '/healthz': controlPlane } },
  // The page's content security policy allows no inlined data but images.
  build: { assetsInlineLimit: 0 },
  test: { include: ['src/**/*.test.ts'] },
});
