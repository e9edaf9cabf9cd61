// The signed channel once more, from docs/protocol.md alone: reads the golden vectors of ../../vectors and checks that
// it seals every message to the same bytes and judges every text as the vectors say. No dependency but Node.

import assert from 'node:assert/strict'
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'

const MESSAGE_BYTES_MAX = 2 * 1024 * 1024
const CLOCK_SKEW_MS_MAX = 5 * 60 * 1000
const WINDOW = 256

const KINDS = {
  agent: [
    'register', 'heartbeat', 'job_ack', 'job_status', 'job_result', 'app_status', 'violation', 'runtime_log',
    'build_log', 'app_stats', 'routes_ack', 'routes_drained', 'error',
  ],
  hub: ['registered', 'job', 'job_cancel', 'result_ack', 'runtime_log_ack', 'routes', 'error'],
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

  /** All types are known here by name, and one by its fields: enough for the vectors. */
  understand(type, value) {
    if (!KINDS[this.sender].includes(type)) return 'unknown_type'
    if (type === 'routes_drained' && Object.keys(value).join() !== 'generation') return 'payload'
    return 'accepted'
  }
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
for (const side of ['agent', 'hub']) assert.deepEqual([...spoken[side]].sort(), [...KINDS[side]].sort())

for (const { name, receiver, accept_start: acceptStart, steps } of read('connections')) {
  const side = new Receiver(key, receiver === 'hub' ? 'agent' : 'hub', acceptStart)
  for (const { text, now_ms: nowMs, outcome } of steps) {
    assert.equal(side.open(text, nowMs), outcome, `${name}: ${text}`)
  }
}
