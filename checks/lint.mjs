// Finds in Nix files what their evaluation cannot show: names that nothing uses, sets that are `rec` for nothing, and
// `name = name`, which is `inherit`. It knows the language's syntax and scopes, not its types or its style (that is nixfmt's).
// usage: node lint.mjs FILE...
import { readFileSync } from 'node:fs'

// --- tokens: { kind: 'name' | 'string' | 'mark' | 'other', text, line }; a string has the `parts` that it interpolates ---------

const WORD = /[A-Za-z_][A-Za-z0-9_'-]*/y
const NUMBER = /[0-9]+(\.[0-9]+)?/y
const PATH = /(<[A-Za-z0-9._/+-]+>|(\.{1,2}|~)?\/[A-Za-z0-9._+-][A-Za-z0-9._/+-]*)/y
const MARK = /(\.\.\.|->|\+\+|\/\/|==|!=|<=|>=|&&|\|\||[{}()[\];:,.@?=+\-*/<>!])/y
const BLANK = /(\s+|#[^\n]*|\/\*[^]*?\*\/)+/y

class Lexer {
  constructor(text, at = 0) {
    this.text = text
    this.at = at
  }

  take(pattern) {
    pattern.lastIndex = this.at
    const found = pattern.exec(this.text)
    if (found) this.at = pattern.lastIndex
    return found?.[0]
  }

  line() {
    return this.text.slice(0, this.at).split('\n').length
  }

  // Up to the brace that closes an interpolation, or to the end of the file.
  tokens() {
    const found = []
    for (let depth = 0; ; ) {
      this.take(BLANK)
      if (this.at >= this.text.length) return found
      const line = this.line()
      const next = this.token()
      if (next.kind === 'mark' && next.text === '{') depth += 1
      if (next.kind === 'mark' && next.text === '}' && depth-- === 0) return found
      found.push({ ...next, line })
    }
  }

  token() {
    if (this.text.startsWith('"', this.at)) return this.string('"', '"')
    if (this.text.startsWith("''", this.at)) return this.string("''", "''")
    if (this.text.startsWith('${', this.at)) return this.interpolation()
    const path = this.take(PATH)
    if (path) return { kind: 'other', text: path }
    const name = this.take(WORD)
    if (name) return { kind: 'name', text: name }
    const number = this.take(NUMBER)
    if (number) return { kind: 'other', text: number }
    const mark = this.take(MARK)
    if (mark) return { kind: 'mark', text: mark }
    throw new Error(`line ${this.line()}: what is ${JSON.stringify(this.text[this.at])}?`)
  }

  interpolation() {
    this.at += 2
    return { kind: 'string', text: '${', parts: [this.tokens()] }
  }

  string(open, close) {
    this.at += open.length
    let text = ''
    const parts = []
    while (!this.closes(close)) {
      if (this.at >= this.text.length) throw new Error(`line ${this.line()}: a string has no end`)
      if (this.text.startsWith('${', this.at)) {
        parts.push(...this.interpolation().parts)
        continue
      }
      const escaped = close === '"' ? /\\[^]|\$\$/y : /''\$|'''|''\\[^]|\$\$/y
      text += this.take(escaped) ?? this.text[this.at++]
    }
    this.at += close.length
    return { kind: 'string', text, parts }
  }

  closes(close) {
    if (!this.text.startsWith(close, this.at)) return false
    return close === '"' || !/^''['$\\]/.test(this.text.slice(this.at, this.at + 3))
  }
}

// --- syntax: who is defined where, and who is used ------------------------------------------------------------------

class Scope {
  constructor(outer) {
    this.outer = outer
    this.names = new Map()
  }

  define(token, what) {
    this.names.set(token.text, { line: token.line, what, used: false })
  }

  use(name) {
    const own = this.names.get(name)
    if (own) own.used = true
    else this.outer?.use(name)
  }
}

const ENDS = new Set([')', ']', '}', ';', ',', 'then', 'else', 'in'])

class Reader {
  constructor(tokens, told, scope) {
    this.tokens = tokens
    this.at = 0
    this.told = told
    this.scope = scope
  }

  peek(ahead = 0) {
    return this.tokens[this.at + ahead]?.text
  }

  next() {
    return this.tokens[this.at++]
  }

  expect(text) {
    const found = this.next()
    if (found?.text !== text) throw new Error(`line ${found?.line}: ${text} is missing before ${found?.text}`)
    return found
  }

  is(text) {
    const token = this.tokens[this.at]
    return token?.text === text && token.kind !== 'string'
  }

  // What stands in a scope of its own; who of it is not used is told when it ends.
  within(define, read) {
    const scope = new Scope(this.scope)
    define(scope)
    this.scope = scope
    read()
    this.scope = scope.outer
    for (const [name, { line, what, used }] of scope.names) {
      if (!used && !name.startsWith('_')) this.told.push([line, `nothing uses the ${what} ${name}`])
    }
    return scope
  }

  expression() {
    if (this.is('let')) return this.let()
    if (this.is('if')) return this.words('if', 'then', 'else')
    if (this.is('with') || this.is('assert')) return this.words(this.peek(), ';')
    if (this.isFunction()) return this.function()
    return this.terms()
  }

  words(...words) {
    for (const word of words) {
      this.expect(word)
      this.expression()
    }
  }

  // Operators bind no names: a row of terms is all that there is to know.
  terms() {
    while (this.at < this.tokens.length && !(this.tokens[this.at].kind !== 'string' && ENDS.has(this.peek()))) this.term()
  }

  term() {
    const token = this.next()
    if (token.kind === 'string') return this.parts(token)
    if (token.text === '(') return this.closed(')', () => this.expression())
    if (token.text === '[') return this.closed(']', () => this.terms())
    if (token.text === '{') return this.set()
    if (token.text === 'rec') return this.recursive(token)
    if (token.text === '.' || token.text === '?') return this.attributes()
    if (token.kind === 'name' && token.text !== 'or') this.scope.use(token.text)
  }

  closed(end, read) {
    read()
    this.expect(end)
  }

  parts(token) {
    for (const part of token.parts) new Reader(part, this.told, this.scope).expression()
  }

  // a."b".${c}: names of attributes are no uses.
  attributes() {
    for (;;) {
      const token = this.next()
      if (token.kind === 'string') this.parts(token)
      if (!this.is('.')) return token
      this.next()
    }
  }

  isFunction() {
    const follows = (at) => this.tokens[at]?.kind === 'mark' && [':', '@'].includes(this.tokens[at].text)
    if (this.tokens[this.at]?.kind === 'name') return follows(this.at + 1)
    return this.is('{') && follows(this.endOf('{', '}') + 1)
  }

  // Where what is opened here is closed.
  endOf(open, close) {
    let depth = 0
    for (let at = this.at; at < this.tokens.length; at++) {
      const { kind, text } = this.tokens[at]
      if (kind === 'mark' && text === open) depth += 1
      if (kind === 'mark' && text === close && --depth === 0) return at
    }
    throw new Error(`line ${this.tokens[this.at].line}: ${open} is not closed`)
  }

  function() {
    const defaults = []
    this.within(
      (scope) => this.parameters(scope, defaults),
      () => {
        for (const tokens of defaults) new Reader(tokens, this.told, this.scope).expression()
        this.expression()
      },
    )
  }

  parameters(scope, defaults) {
    for (;;) {
      if (this.is('{')) this.formals(scope, defaults)
      else scope.define(this.next(), 'argument')
      if (this.next().text === ':') return
    }
  }

  formals(scope, defaults) {
    const end = this.endOf('{', '}')
    this.next()
    while (this.at < end) {
      const token = this.next()
      if (token.kind === 'name') scope.define(token, 'argument')
      if (token.text === '?') defaults.push(this.default(end))
    }
    this.expect('}')
  }

  default(end) {
    const begin = this.at
    for (let depth = 0; this.at < end && !(depth === 0 && this.is(',')); this.at++) {
      if (['{', '(', '['].some((mark) => this.is(mark))) depth += 1
      if (['}', ')', ']'].some((mark) => this.is(mark))) depth -= 1
    }
    return this.tokens.slice(begin, this.at)
  }

  let() {
    this.expect('let')
    this.within(
      (scope) => this.definitions(scope, 'in'),
      () => {
        this.bindings('in', true)
        this.expect('in')
        this.expression()
      },
    )
  }

  recursive({ line }) {
    this.expect('{')
    const inner = new Scope(this.scope)
    this.definitions(inner, '}')
    this.scope = inner
    this.bindings('}', true)
    this.scope = inner.outer
    this.expect('}')
    if (![...inner.names.values()].some(({ used }) => used)) this.told.push([line, 'the set is rec, and nothing in it uses it'])
  }

  set() {
    this.bindings('}', false)
    this.expect('}')
  }

  // The names that stand before a binding's `=`, without reading what is behind.
  definitions(scope, end) {
    const begin = this.at
    for (let depth = 0; this.at < this.tokens.length && !(depth === 0 && this.is(end)); ) {
      if (depth === 0) this.definition(scope)
      for (; this.at < this.tokens.length && !(depth === 0 && this.is(';')); this.at++) {
        if (['{', '(', '[', 'let'].some((mark) => this.is(mark))) depth += 1
        if (['}', ')', ']', 'in'].some((mark) => this.is(mark))) depth -= 1
      }
      this.at += 1
    }
    this.at = begin
  }

  definition(scope) {
    if (!this.is('inherit')) {
      if (this.tokens[this.at].kind === 'name') scope.define(this.tokens[this.at], 'definition of')
      return
    }
    this.at += 1
    if (this.is('(')) this.at = this.endOf('(', ')') + 1
    for (; !this.is(';'); this.at++) scope.define(this.tokens[this.at], 'inherited')
  }

  bindings(end, isRecursive) {
    while (!this.is(end)) {
      if (this.is('inherit')) this.inherit(isRecursive)
      else this.binding()
      this.expect(';')
    }
  }

  // In a recursive set, what is inherited without `(…)` comes from outside.
  inherit(isRecursive) {
    this.next()
    if (this.is('(')) {
      this.next()
      this.closed(')', () => this.expression())
      while (!this.is(';')) this.next()
      return
    }
    while (!this.is(';')) (isRecursive ? this.scope.outer : this.scope)?.use(this.next().text)
  }

  binding() {
    const first = this.tokens[this.at]
    const last = this.attributes()
    this.expect('=')
    const begin = this.at
    this.expression()
    const only = this.at - begin === 1 && this.tokens[begin].kind === 'name' && first.kind === 'name'
    if (only && first === last && this.tokens[begin].text === first.text) {
      this.told.push([first.line, `${first.text} = ${first.text} is inherit ${first.text}`])
    }
  }
}

function lint(text) {
  const told = []
  const reader = new Reader(new Lexer(text).tokens(), told, new Scope())
  reader.expression()
  if (reader.at < reader.tokens.length) throw new Error(`line ${reader.next().line}: nothing is expected here`)
  return told.sort(([one], [other]) => one - other)
}

let count = 0
for (const file of process.argv.slice(2)) {
  for (const [line, sentence] of lint(readFileSync(file, 'utf8'))) {
    console.error(`${file}:${line}: ${sentence}`)
    count += 1
  }
}
process.exitCode = count > 0 ? 1 : 0
