// The browser's side of the dashboard's test; crates/control-plane/tests/program/dashboard.rs is the other side.
//
// Usage: node dashboard.mjs <sign-in link> <folder for the browser's profile>
// It prints a word when it is time for something to happen, and fails when something is not seen.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const [link, folder] = process.argv.slice(2);
const PATIENCE_MS = 20_000;
const OPTIONS = {
  executablePath: '/usr/bin/chromium',
  headless: true,
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
};

const browser = await chromium.launchPersistentContext(`${folder}/profile`, OPTIONS);
browser.setDefaultTimeout(PATIENCE_MS);
const page = browser.pages()[0] ?? (await browser.newPage());
const wrong = [];
page.on('pageerror', (error) => wrong.push(`error: ${error.message}`));
page.on('console', (message) => {
  // Refused requests are part of the test; what the page's policy refuses is not.
  if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) wrong.push(message.text());
});

try {
  await signIn();
  await seeAFieldRefused();
  await deploy();
  await watchTheLogGrow();
  await deleteByKeyboard();
  await signInTwice();
  assert.deepEqual(wrong, []);
} finally {
  await browser.close();
}

async function signIn() {
  const requests = [];
  page.on('request', (request) => requests.push(request.url()));
  await page.goto(link);
  await page.getByRole('heading', { name: 'Apps' }).waitFor();
  await page.getByText('You have no app yet.').waitFor();
  await page.getByText('a@example.org').waitFor();
  const token = link.split('/').at(-1);
  assert.ok(!requests.some((url) => new URL(url).pathname.includes(token)), 'the token is in no address');
  assert.ok(!page.url().includes(token), 'the token does not stay in the address bar');
}

async function seeAFieldRefused() {
  await page.getByRole('link', { name: 'New app' }).click();
  await page.getByLabel('Name').fill('Hello World');
  await page.getByLabel('Repository').fill('https://example.org/hello.git');
  await page.getByRole('button', { name: 'Create and deploy' }).click();
  await page.getByText('is not a DNS label').waitFor();
  assert.equal(await page.getByLabel('Name').getAttribute('aria-invalid'), 'true');
}

async function deploy() {
  await page.getByLabel('Name').fill('hello');
  await page.getByRole('button', { name: 'Create and deploy' }).click();
  await page.getByRole('heading', { name: 'Deployment 1' }).waitFor();
  await page.evaluate(() => {
    window.neverReloaded = true;
  });
  console.log('deployed');
}

async function watchTheLogGrow() {
  const log = page.getByRole('log', { name: 'Build log' });
  await log.getByText('STEP 1/2: FROM node:22').waitFor();
  await page.getByRole('listitem').filter({ hasText: 'Building' }).and(page.locator('[aria-current=step]')).waitFor();
  console.log('watching');
  await log.getByText('STEP 2/2: RUN npm install', { exact: true }).waitFor();
  console.log('log has grown');
  await page.getByRole('alert').getByText('npm install ended with status 1').waitFor();
  await page.getByRole('cell', { name: 'Failed' }).waitFor();
  assert.equal(await page.evaluate(() => window.neverReloaded), true);
}

async function deleteByKeyboard() {
  await page.getByText('Delete', { exact: true }).focus();
  await page.keyboard.press('Enter');
  await page.keyboard.press('Tab');
  await page.keyboard.type('hello');
  await page.keyboard.press('Enter');
  await page.getByText('You have no app yet.').waitFor();
}

async function signInTwice() {
  await page.goto('about:blank');
  await page.goto(link);
  await page.getByText('This sign-in link was used before or has expired.').waitFor();
}
