// In place of Supabase's container: the same environment and nothing else, the same health check, the same paths.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'
import { createClient } from '@supabase/supabase-js'
import { startGateway } from './gateway.mjs'
import { jwtSecret, listen, signToken, startPostgres, startWalcast } from './harness.mjs'

const sqlFile = (name) => readFileSync(new URL(`../../sql/${name}`, import.meta.url), 'utf8')
const anonKey = signToken({ role: 'anon', iss: 'supabase' })
const serviceKey = signToken({ role: 'service_role', iss: 'supabase' })
const publishableKey = 'sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH'
const quiet = { auth: { persistSession: false, autoRefreshToken: false } }
const curl = promisify(execFile)

let postgres, walcast, gateway, start

before(async () => {
  postgres = await startPostgres()
  // What the stack's own Postgres image comes with.
  await postgres.sql(`
    create role supabase_admin superuser login password 'postgres';
    create role anon nologin noinherit;
    create role authenticated nologin noinherit;
    create role service_role nologin noinherit bypassrls;
    create schema _realtime;
    create publication supabase_realtime`)
  await postgres.sql(sqlFile('migrations/0004_auth.sql'))
  await postgres.sql(sqlFile('examples/chat.sql'))

  const { hostname, port: databasePort, pathname } = new URL(postgres.url)
  start = (flags = []) => startWalcast(() => flags, {
    cleanEnv: true,
    // Of the stack's docker-compose.yml, as of 2026: names, order and, but for secrets and places, values.
    env: (port) => ({
      PORT: String(port),
      DB_HOST: hostname,
      DB_PORT: databasePort,
      DB_USER: 'supabase_admin',
      DB_PASSWORD: 'postgres',
      DB_NAME: pathname.slice(1),
      DB_AFTER_CONNECT_QUERY: 'SET search_path TO _realtime',
      DB_ENC_KEY: 'supabaserealtime',
      API_JWT_SECRET: jwtSecret,
      API_JWT_JWKS: '{"keys":[]}',
      SECRET_KEY_BASE: 'a-secret-that-walcast-has-no-use-for-with-at-least-64-characters!',
      METRICS_JWT_SECRET: jwtSecret,
      ERL_AFLAGS: '-proto_dist inet_tcp',
      DNS_NODES: "''",
      RLIMIT_NOFILE: '10000',
      APP_NAME: 'realtime',
      SEED_SELF_HOST: 'true',
      RUN_JANITOR: 'true',
      DISABLE_HEALTHCHECK_LOGGING: 'true',
    }),
  })
  walcast = await start()
  gateway = await startGateway(walcast.port, { [publishableKey]: anonKey })
})
after(async () => {
  await gateway?.stop()
  await walcast?.stop()
  await postgres?.stop()
})

test("the stack's health check passes", async () => {
  const url = `http://localhost:${walcast.port}/api/tenants/realtime-dev/health`
  const bearer = `Authorization: Bearer ${anonKey}`
  const { stdout } = await curl('curl', ['-sSf', '-H', bearer, url])
  const { data } = JSON.parse(stdout)
  assert.equal(data.healthy, true)
  assert.equal(data.db_connected, true)
  // As newer versions of the stack ask.
  await curl('curl', ['-sSfL', '--head', '-o', '/dev/null', '-H', bearer, url])
  await assert.rejects(curl('curl', ['-sSf', '-H', 'Authorization: Bearer nonsense', url]))
})

test('the database was set up on the way, and is left alone by the next start', async () => {
  const installed = async () => (await postgres.sql("select to_regclass('walcast.ddl_log') as ddl_log")).rows[0].ddl_log
  assert.equal(await installed(), 'walcast.ddl_log')
  const oid = async () => (await postgres.sql("select 'walcast.ddl_log'::regclass::oid as oid")).rows[0].oid
  const before = await oid()
  await gateway.stop()
  await walcast.stop()
  walcast = await start(['--auto-setup'])
  gateway = await startGateway(walcast.port, { [publishableKey]: anonKey })
  assert.equal(await oid(), before)
})

test('a client receives changes through the gateway, with either kind of key, and without a gateway', async () => {
  const clients = [
    createClient(gateway.url, anonKey, quiet),
    createClient(gateway.url, publishableKey, quiet),
    createClient(walcast.url, anonKey, quiet),
  ]
  const binding = { event: 'INSERT', schema: 'public', table: 'announcements' }
  const channels = []
  for (const client of clients) channels.push(await listen(client, 'news', binding))
  await postgres.sql("insert into announcements (title, published) values ('from the stack', true)")
  for (const { changes } of channels) assert.equal((await changes.next()).new.title, 'from the stack')
  for (const client of clients) {
    await client.removeAllChannels()
    client.realtime.disconnect()
  }
})

test('broadcasts over HTTP are taken through the gateway and without one', async () => {
  for (const [url, key] of [[gateway.url, anonKey], [gateway.url, publishableKey], [walcast.url, anonKey]]) {
    const client = createClient(url, key, quiet)
    const channel = client.channel('not-joined')
    assert.equal(await channel.send({ type: 'broadcast', event: 'cursor', payload: { x: 1 } }), 'ok')
    assert.deepEqual(await channel.httpSend('cursor', { x: 1 }), { success: true })
    assert.deepEqual(await channel.httpSend('bytes', new Uint8Array([1, 2]).buffer), { success: true })
    // The key alone, without supabase-js: the gateway puts it where a token would be.
    const body = JSON.stringify({ messages: [{ topic: 't', event: 'e', payload: {} }] })
    const headers = { apikey: key, 'content-type': 'application/json' }
    const answer = await fetch(`${url}/realtime/v1/api/broadcast`, { method: 'POST', headers, body })
    assert.equal(answer.status, 202)
  }
  const refused = await createClient(walcast.url, 'sb_publishable_unknown', quiet)
    .channel('not-joined')
    .send({ type: 'broadcast', event: 'cursor', payload: {} })
  assert.equal(refused, 'error')
})

test('metrics and the admin API are for tokens that no web page has', async () => {
  const status = async (path, key) =>
    (await fetch(`${walcast.url}${path}`, { headers: { authorization: `Bearer ${key}` } })).status
  for (const path of ['/metrics', '/api/tenants', '/api/tenants/realtime-dev']) {
    assert.equal(await status(path, serviceKey), 200, path)
    assert.equal(await status(path, anonKey), 403, path)
  }
  const blocked = await fetch(`${gateway.url}/realtime/v1/api/tenants`, { headers: { apikey: serviceKey } })
  assert.deepEqual([blocked.status, await blocked.json()], [403, { message: 'Access is forbidden.' }])
})

test('where no gateway exchanges them, walcast knows the keys itself', async () => {
  await gateway.stop()
  await walcast.stop()
  walcast = await start(['--api-key', `${publishableKey}=anon`])
  const client = createClient(walcast.url, publishableKey, quiet)
  const { changes } = await listen(client, 'news', { event: 'INSERT', schema: 'public', table: 'announcements' })
  await postgres.sql("insert into announcements (title, published) values ('by key', true)")
  assert.equal((await changes.next()).new.title, 'by key')
  await client.removeAllChannels()
  client.realtime.disconnect()
  const channel = createClient(walcast.url, publishableKey, quiet).channel('not-joined')
  assert.deepEqual(await channel.httpSend('cursor', { x: 1 }), { success: true })
})
