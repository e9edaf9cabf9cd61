// Evaluates the modules and hosts against a copy of nixpkgs' lib, and gives each rendered file to the program that
// would read it. usage: node run.mjs NIXPKGS_LIB
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const here = import.meta.dirname
const programs = resolve(process.env.CARGO_TARGET_DIR ?? join(here, '../../target'), 'debug')
const credentials = [
  'control_plane.api_key',
  'database.password',
  'gateway.token',
  'mesh.private_key',
  'secrets.jwt_secret',
  'secrets.master_key',
  'secrets.traefik_token',
]
const notASecret = 'Zm9yLXRoZS1jaGVjay1hbG9uZS1ub3QtYS1zZWNyZXQ='

// The copy is the repository nix-community/nixpkgs.lib, or its folder lib.
function findLib(folder) {
  const found = [join(folder, 'lib'), folder].find((path) => existsSync(join(path, 'modules.nix')))
  if (!found) throw new Error(`${folder} is no copy of nixpkgs' lib: there is no modules.nix in it`)
  return resolve(found)
}

function evaluate(lib) {
  const options = ['--option', 'build-users-group', '', '--eval', '--strict', '--json']
  const file = join(here, 'stubbed.nix')
  const output = execFileSync('nix-instantiate', [...options, file, '--arg', 'nixpkgsLib', lib], {
    maxBuffer: 64 * 1024 * 1024,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  return JSON.parse(output)
}

// What the build does too, in nixos-modules/lib: secrets that are none, and folders that are there.
function environment(file, folder) {
  const changed = { CREDENTIALS_DIRECTORY: join(folder, 'credentials') }
  if (file.text.includes('"password_file"')) {
    changed.WISEHOSTING_DATABASE__PASSWORD_FILE = join(folder, 'credentials/database.password')
  }
  if (file.text.includes('"certificates_dir"')) {
    changed.WISEHOSTING_INGRESS__TLS__CERTIFICATES_DIR = join(folder, 'certificates')
  }
  if (file.text.includes('"dynamic_dir"')) {
    changed.WISEHOSTING_INGRESS__TRAEFIK__DYNAMIC_DIR = join(folder, 'certificates')
  }
  return { ...process.env, ...changed }
}

function checkConfig(file, text, folder) {
  const path = join(folder, `${file.name}.toml`)
  writeFileSync(path, text)
  const program = join(programs, file.program)
  return spawnSync(program, ['--config', path, 'check-config'], { env: environment(file, folder) })
}

// The program takes the file, and would not have taken it with a setting that it does not know.
function checkFile(file, folder) {
  const taken = checkConfig(file, file.text, folder)
  const said = (result) => `${file.name}, ${file.program}: ${result.error ?? result.stderr}`
  if (taken.status !== 0) return [said(taken)]
  const refused = checkConfig(file, `nobody_knows_this = 1\n${file.text}`, folder)
  return refused.status === 78 && `${refused.stderr}`.includes('nobody_knows_this')
    ? []
    : [`an unknown setting is not refused, ${said(refused)}`]
}

function checkFiles(files) {
  const folder = mkdtempSync(join(tmpdir(), 'wisehosting-eval-'))
  try {
    mkdirSync(join(folder, 'certificates'))
    mkdirSync(join(folder, 'credentials'))
    for (const name of credentials) writeFileSync(join(folder, 'credentials', name), notASecret)
    return files.flatMap((file) => checkFile(file, folder))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const result = evaluate(findLib(process.argv[2]))
const failures = [...result.failures, ...checkFiles(result.files)]
for (const failure of failures) console.error(failure)
console.log(`${result.count} cases and ${result.files.length} files, ${failures.length} wrong`)
process.exitCode = failures.length > 0 ? 1 : 0
