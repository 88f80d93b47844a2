// In place of Supabase's container: the same environment and nothing else, the same health check, the same paths.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'
import { createClient } from '@supabase/supabase-js'
import { jwtSecret, listen, signToken, startPostgres, startWalcast } from './harness.mjs'

const sqlFile = (name) => readFileSync(new URL(`../../sql/${name}`, import.meta.url), 'utf8')
const anonKey = signToken({ role: 'anon', iss: 'supabase' })

let postgres, walcast

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
  walcast = await startWalcast(() => [], {
    cleanEnv: true,
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
      SECRET_KEY_BASE: 'UpNVntn3cDxHJpq99YMc1T1AQgQpc8kfYTuRgBiYa15BLrx8etQoXz3gZv1/u2oq',
      ERL_AFLAGS: '-proto_dist inet_tcp',
      DNS_NODES: "''",
      RLIMIT_NOFILE: '10000',
      APP_NAME: 'realtime',
      SEED_SELF_HOST: 'true',
      RUN_JANITOR: 'true',
    }),
  })
})
after(async () => {
  await walcast?.stop()
  await postgres?.stop()
})

test("the stack's health check passes", async () => {
  const url = `http://localhost:${walcast.port}/api/tenants/realtime-dev/health`
  const bearer = `Authorization: Bearer ${anonKey}`
  const curl = promisify(execFile)
  const { stdout } = await curl('curl', ['-sSf', '-H', bearer, url])
  const { data } = JSON.parse(stdout)
  assert.equal(data.healthy, true)
  assert.equal(data.db_connected, true)
  // As newer versions of the stack ask.
  await curl('curl', ['-sSfL', '--head', '-o', '/dev/null', '-H', bearer, url])
  await assert.rejects(curl('curl', ['-sSf', '-H', 'Authorization: Bearer nonsense', url]))
})

test('a client receives changes, on the path that the gateway leaves and on the whole one', async () => {
  // The gateway makes /socket/websocket of /realtime/v1/websocket; a client without a gateway sends the latter.
  const direct = createClient(walcast.url, anonKey, { auth: { persistSession: false, autoRefreshToken: false } })
  const gateway = createClient(walcast.url, anonKey, { auth: { persistSession: false, autoRefreshToken: false } })
  gateway.realtime.socketAdapter.getSocket().endPoint = `${walcast.url.replace('http', 'ws')}/socket/websocket`
  const binding = { event: 'INSERT', schema: 'public', table: 'announcements' }
  const channels = [await listen(direct, 'news', binding), await listen(gateway, 'news', binding)]
  assert.match(gateway.realtime.endpointURL(), /\/socket\/websocket\?/)
  await postgres.sql("insert into announcements (title, published) values ('from the stack', true)")
  for (const { changes } of channels) assert.equal((await changes.next()).new.title, 'from the stack')
  for (const client of [direct, gateway]) {
    await client.removeAllChannels()
    client.realtime.disconnect()
  }
})
