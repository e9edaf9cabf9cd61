// The signed channel once more, from docs/protocol.md alone: reads the golden vectors of ../../vectors and checks that
// it seals every message to the same bytes and judges every text as the vectors say. No dependency but Node.

import assert from 'node:assert/strict'
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'

const MESSAGE_BYTES_MAX = 2 * 1024 * 1024
const CLOCK_SKEW_MS_MAX = 5 * 60 * 1000
const WINDOW = 256

/** Takes what `takes` does, or null. A field that takes null may be left out. */
const orNull = (takes) => (value) => value === undefined || value === null || takes(value)
const text = (value) => typeof value === 'string'
const number = (value) => Number.isInteger(value) && value >= 0
const boolean = (value) => typeof value === 'boolean'
const oneOf = (...texts) => (value) => texts.includes(value)
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value)
const list = (takes) => (value) => Array.isArray(value) && value.every((item) => takes(item))
const byName = (takes) => (value) => isObject(value) && Object.values(value).every((item) => takes(item))
const object = (fields) => (value) =>
  isObject(value) &&
  Object.keys(value).every((name) => Object.hasOwn(fields, name)) &&
  Object.entries(fields).every(([name, takes]) => takes(value[name]))
/** An object whose field `tag` says which of the `kinds` it is. */
const kindOf = (tag, kinds) => (value) =>
  isObject(value) && Object.hasOwn(kinds, value[tag]) && object({ [tag]: text, ...kinds[value[tag]] })(value)

const job = object({ job_id: text })
const line = object({ at: text, stream: oneOf('stdout', 'stderr', 'system'), text })
const lines = (value) => list(line)(value) && value.length <= 4096
const cursor = orNull((value) => text(value) && Buffer.byteLength(value) <= 65536)
const deploy = {
  deployment_id: text,
  source: object({ repository: text, branch: orNull(text), commit: orNull(text) }),
  login: orNull(object({ username: text, password: text })),
  image_id: orNull(text),
  preset: orNull(oneOf('next', 'vite', 'node', 'go', 'python', 'static')),
  limits: object({
    memory_bytes: number, cpu_millis: number, pids: number, bandwidth_bits_per_s: orNull(number), disk_bytes: orNull(number),
  }),
  read_only: orNull(boolean),
  port: number,
  health_path: text,
  health_timeout_ms: number,
  deadline_ms: number,
  environment: byName(text),
}
const usage = object({
  cpu_us: number, memory_bytes: number, processes: number, received_bytes: number, sent_bytes: number,
  disk_bytes: orNull(number), disk_read_bytes: orNull(number), disk_written_bytes: orNull(number),
})

const validity = object({ not_before_ms: number, not_after_ms: number })
const certificate = object({ host: text, validity, chain: text, key: text })
const challenge = { kind: oneOf('http-01', 'tls-alpn-01'), token: text, key_authorization: text }

/** What the payload of each type takes. */
const PAYLOADS = {
  agent: {
    register: object({
      version: text,
      capacity: orNull(object({ memory_bytes: number, cpu_millis: number })),
      running_jobs: list(text),
    }),
    heartbeat: object({
      memory_bytes_used: number, cpu_millis_used: number, instances: orNull(number), running_jobs: list(text),
    }),
    job_ack: job,
    job_status: object({
      job_id: text, state: oneOf('cloning', 'building', 'starting', 'checking'), observed_at_ms: number,
    }),
    job_result: object({
      job_id: text,
      instance_id: text,
      outcome: kindOf('outcome', {
        deployed: { commit: text, image_id: text, address: text },
        stopped: {},
        deleted: {},
        failed: { message: text },
        cancelled: {},
      }),
      observed_at_ms: number,
    }),
    app_status: object({
      instance_id: text, running: boolean, exit_code: orNull(Number.isInteger), stopped: boolean, observed_at_ms: number,
    }),
    violation: object({
      instance_id: text, kind: oneOf('out_of_memory', 'disk_quota', 'crash_loop'), message: text, observed_at_ms: number,
    }),
    runtime_log: object({ instance_id: text, after: cursor, cursor, lines }),
    build_log: object({ deployment_id: text, first_line: number, lines }),
    app_stats: object({
      observed_at_ms: number,
      host: object({
        disk_bytes: number, disk_bytes_used: number, disk_bytes_wanted: number, disk_limits_held: boolean,
        mesh_received_bytes: number, mesh_sent_bytes: number,
      }),
      instances: list(object({ instance_id: text, usage })),
    }),
    routes_ack: object({ generation: number, problems: list(object({ instance_id: text, message: text })) }),
    routes_drained: object({ generation: number }),
    certificate,
    certificate_get: object({ host: text }),
    certificate_order: object({
      host: text,
      order_id: text,
      step: kindOf('step', { begin: { held_not_before_ms: orNull(number) }, challenge, failed: {} }),
    }),
    challenges_shown: object({ tokens: list(text) }),
    mesh_status: object({
      generation: orNull(number),
      mtu: number,
      links: list(object({
        name: text,
        path: oneOf('direct', 'hub'),
        handshake_age_ms: orNull(number),
        round_trip_us: orNull(number),
        received_bytes: number,
        sent_bytes: number,
      })),
    }),
    error: object({ message: text }),
  },
  hub: {
    registered: object({ version: text, heartbeat_interval_ms: number }),
    job: object({
      job_id: text,
      app_id: text,
      app: text,
      instance_id: text,
      work: kindOf('kind', { deploy, stop: { grace_ms: number }, delete: {} }),
    }),
    job_cancel: job,
    result_ack: job,
    runtime_log_ack: object({ instance_id: text, cursor }),
    routes: object({
      table: object({
        generation: number,
        routes: byName(object({ app: text, upstreams: list(object({ instance_id: text, address: text })) })),
      }),
    }),
    certificates: object({
      stored: byName(validity),
      orders: byName(object({ order_id: text, challenge: orNull(object(challenge)), shown: boolean })),
      held_back: list(text),
      forgotten: byName(number),
    }),
    certificate,
    mesh_peers: object({
      generation: number,
      hub: text,
      next_hub: orNull(text),
      peers: list(object({ name: text, public_key: text, address: text, endpoint: orNull(text) })),
    }),
    error: object({ message: text }),
  },
}

const hmac = (key, { t, i, s, ts }, payload) =>
  createHmac('sha256', key).update(`${t}|${i}|${s}|${ts}|${payload}`).digest('hex')

function seal(key, head, payload) {
  const { t, i, s, ts } = head
  return `{"t":"${t}","i":"${i}","s":${s},"ts":${ts},"p":${payload},"h":"${hmac(key, head, payload)}"}`
}

/** The envelope and its payload's exact text, or none. A peer writes the fields in this order and without white space. */
function parse(text) {
  const shape =
    /^\{"t":"([a-z_]*)","i":"([0-9a-f]{32})","s":(0|[1-9][0-9]*),"ts":(0|[1-9][0-9]*),"p":(.*),"h":"([^"\\]*)"\}$/su
  const match = shape.exec(text)
  if (!match) return undefined
  const [, t, i, s, ts, payload, h] = match
  try {
    return { head: { t, i, s: Number(s), ts: Number(ts) }, payload, value: JSON.parse(payload), h }
  } catch {
    return undefined
  }
}

/** What one side has heard on one connection. */
class Receiver {
  constructor(key, sender, acceptStart) {
    Object.assign(this, { key, sender, start: acceptStart, next: acceptStart, seen: new Set() })
  }

  open(text, nowMs) {
    if (Buffer.byteLength(text) > MESSAGE_BYTES_MAX) return 'too_large'
    const envelope = parse(text)
    if (!envelope) return 'malformed'
    const { head, payload, value, h } = envelope
    const expected = Buffer.from(hmac(this.key, head, payload))
    const given = Buffer.from(h)
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) return 'signature'
    if (Math.abs(head.ts - nowMs) > CLOCK_SKEW_MS_MAX) return 'clock'
    return this.count(head.s) ?? this.understand(head.t, value)
  }

  count(number) {
    if (number >= this.next + WINDOW) return 'too_far_ahead'
    if (number < this.start || number < this.next - WINDOW) return 'too_old'
    if (this.seen.has(number)) return 'replayed'
    this.seen.add(number)
    this.next = Math.max(this.next, number + 1)
    return undefined
  }

  understand(type, value) {
    if (!Object.hasOwn(PAYLOADS[this.sender], type)) return 'unknown_type'
    return PAYLOADS[this.sender][type](value) ? 'accepted' : 'payload'
  }
}

/** The payload after one operation of a JSON Patch. */
function patched(payload, { op, path, value }) {
  const changed = structuredClone(payload)
  const names = path.split('/').slice(1)
  const field = names.pop()
  const owner = names.reduce((owner, name) => owner[name], changed)
  if (op === 'remove') delete owner[field]
  else owner[field] = value
  return changed
}

const read = (name) => JSON.parse(readFileSync(new URL(`../../vectors/${name}.json`, import.meta.url), 'utf8'))

const vectors = read('messages')
const key = createHash('sha256').update(vectors.api_key).digest()
assert.equal(key.toString('hex'), vectors.key)

const spoken = { agent: new Set(), hub: new Set() }
for (const { from, signed, envelope } of vectors.messages) {
  const { head, payload } = parse(envelope) ?? assert.fail(envelope)
  assert.equal(`${head.t}|${head.i}|${head.s}|${head.ts}|${payload}`, signed)
  assert.equal(seal(key, head, payload), envelope)
  assert.equal(new Receiver(key, from, head.s).open(envelope, head.ts), 'accepted')
  spoken[from].add(head.t)
}
for (const side of ['agent', 'hub']) assert.deepEqual([...spoken[side]].sort(), Object.keys(PAYLOADS[side]).sort())

for (const { name, receiver, accept_start: acceptStart, steps } of read('connections')) {
  const side = new Receiver(key, receiver === 'hub' ? 'agent' : 'hub', acceptStart)
  for (const { text, now_ms: nowMs, outcome } of steps) {
    assert.equal(side.open(text, nowMs), outcome, `${name}: ${text}`)
  }
}

const examples = read('payloads')
for (const change of read('changes')) {
  const receiver = new Receiver(key, change.from, 0)
  const payload = patched(examples[change.from][change.type][change.example], change)
  assert.equal(receiver.understand(change.type, payload), change.outcome, JSON.stringify(change))
}
