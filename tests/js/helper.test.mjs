// examples/resume.ts: what it promises to an application, and that a strict type checker takes it.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { promisify } from 'node:util'
import ts from 'typescript'
import { Inbox, listen, startStack, until } from './harness.mjs'
import { BrowsersWebSocket, startProxy } from './proxy.mjs'

const source = readFileSync(new URL('../../examples/resume.ts', import.meta.url), 'utf8')
const { outputText } = ts.transpileModule(source, { compilerOptions: { target: 'es2022', module: 'esnext' } })
const { resumable, isBehind } = await import(`data:text/javascript,${encodeURIComponent(outputText)}`)

let stack, proxy

/** Each test has a relay of its own choice. */
async function serve(t, flags) {
  stack = await startStack({ flags })
  proxy = await startProxy(new URL(stack.url).port)
  t.after(async () => {
    await proxy.stop()
    await stack.stop()
  })
}

const announce = (...titles) =>
  stack.sql('insert into announcements (title, published) select title, true from unnest($1::text[]) title', [titles])

/** A sessionStorage. */
const memory = () => {
  const items = new Map()
  return { items, getItem: (name) => items.get(name) ?? null, setItem: (name, value) => items.set(name, value) }
}

/** An application that uses the helper; `titles` is all that it had. */
async function application({ onChange, ...more } = {}) {
  const realtime = { reconnectAfterMs: () => 50, heartbeatIntervalMs: 100, transport: BrowsersWebSocket }
  const client = stack.anonymous({ url: proxy.url, realtime })
  await client.realtime.setAuth()
  const [titles, resumptions, gaps] = [[], new Inbox(), []]
  const channel = resumable(client, {
    channel: 'news',
    event: 'INSERT',
    table: 'announcements',
    onChange(change, position) {
      titles.push(change.new.title)
      onChange?.(change, position)
    },
    onGap: (gap) => gaps.push(gap),
    onResumed: resumptions.push,
    ...more,
  })
  const leave = async () => {
    await client.removeAllChannels()
    client.realtime.disconnect()
  }
  return { channel, titles, gaps, leave, resumed: () => resumptions.next('a resumption'), resumption: await resumptions.next() }
}

/** Until what lies behind a position is kept no more; a busy table moves what is kept. */
async function untilNotKept(position) {
  await until('a gap', async () => {
    await stack.sql('insert into busy default values')
    const client = stack.anonymous()
    const { system } = await listen(client, 'probe', { event: '*', schema: 'public', table: 'announcements', since: position })
    const { resume } = await system.find((payload) => payload.resume)
    await client.removeAllChannels()
    client.realtime.disconnect()
    return resume.state === 'gap'
  })
}

test('the type checker has nothing to say', async () => {
  const directory = new URL('.', import.meta.url)
  await promisify(execFile)(process.execPath, ['node_modules/typescript/bin/tsc', '-p', '.'], { cwd: directory }).catch(
    ({ stdout }) => assert.fail(stdout),
  )
})

test('positions are compared as the relay does', () => {
  const ascending = ['7:1:0/9:3', '7:1:0/A:2', '7:1:0/A:10', '7:1:0/A', '7:1:1/0:0', '7:1:10/0:0']
  ascending.forEach((one, i) => ascending.forEach((two, j) => assert.equal(isBehind(one, two), i > j, `${one} ${two}`)))
  // Of another database, or on a timeline that began later.
  assert.ok(isBehind('8:1:0/1:0', '7:1:0/9:3') && isBehind('7:2:0/1:0', '7:1:0/9:3'))
})

test('each change is had once, in order, whatever happens to connection, relay and page', async (t) => {
  await serve(t, [])
  const storage = memory()
  let cutAt
  const onChange = (change) => {
    assert.ok(!('walcast_position' in change.new))
    if (change.new.title === cutAt) proxy.cut()
  }
  let page = await application({ storage, onChange })
  assert.equal(page.resumption.state, 'started')
  const [had, expected] = [[], []]
  const three = async (text) => {
    const titles = [1, 2, 3].map((n) => `${text} ${n}`)
    expected.push(...titles)
    await announce(...titles)
  }
  const ways = {
    cut: async (meanwhile) => (proxy.down(), await meanwhile(), proxy.up()),
    stop: (meanwhile) => stack.restartWalcast(meanwhile, 'SIGTERM'),
    kill: (meanwhile) => stack.restartWalcast(meanwhile, 'SIGKILL'),
  }
  for (const [name, way] of Object.entries(ways)) {
    cutAt = `${name} in between 2`
    await three(`${name} in between`)
    await page.resumed()
    await way(() => three(name))
    assert.equal((await page.resumed()).state, 'complete')
    // Reloaded.
    await page.leave()
    await three(`${name} while reloading`)
    had.push(...page.titles)
    page = await application({ storage, onChange })
    assert.equal(page.resumption.state, 'complete')
    assert.deepEqual(page.gaps, [])
  }
  await three('last')
  await until('the last', () => page.titles.at(-1) === 'last 3')
  assert.deepEqual([...had, ...page.titles], expected)
  assert.equal([...storage.items.values()].join(), page.channel.position)
  await page.leave()
})

test('a relay that keeps little', async (t) => {
  const retentionMs = 1000
  await serve(t, ['--resume-retention', `${retentionMs}ms`])
  await stack.sql(`
    create table busy (id bigint generated always as identity primary key);
    grant select on busy to anon;
    alter publication supabase_realtime add table busy`)

  await t.test('a change that onChange throws at has been had', async () => {
    const { titles, channel, leave, resumed } = await application({
      storage: null,
      onChange: ({ new: { title } }, position) => {
        if (title === 'thrown at') throw new Error(position)
      },
    })
    BrowsersWebSocket.reported.length = 0
    await announce('thrown at')
    await until('the report', () => BrowsersWebSocket.reported.length > 0)
    assert.equal(channel.position, BrowsersWebSocket.reported[0].message)
    proxy.cut()
    assert.equal((await resumed()).state, 'complete')
    await announce('the next')
    await until('the next', () => titles.includes('the next'))
    assert.deepEqual(titles, ['thrown at', 'the next'])
    await leave()
  })

  await t.test('a quiet table is no gap, however long it is quiet', async () => {
    const { channel, titles, gaps, leave, resumed } = await application({ storage: null, retentionMs })
    await announce('the last for long')
    await until('it', () => titles.length === 1)
    await untilNotKept(channel.position)
    proxy.cut()
    assert.deepEqual([(await resumed()).state, gaps], ['complete', []])
    await announce('at last')
    await until('it', () => titles.length === 2)
    assert.deepEqual(titles, ['the last for long', 'at last'])
    await leave()
  })

  await t.test('what is lost is told', async () => {
    const storage = memory()
    const { channel, titles, gaps, leave, resumed } = await application({ storage })
    const from = channel.position
    proxy.down()
    await announce('lost')
    await untilNotKept(from)
    proxy.up()
    assert.equal((await resumed()).state, 'gap')
    assert.equal(gaps.length, 1)
    assert.match(gaps[0].reason, /--resume-retention/)
    assert.ok(isBehind(gaps[0].to, from))
    await announce('after')
    await until('it', () => titles.length === 1)
    assert.deepEqual(titles, ['after'])
    await leave()

    // Another database, as its positions tell.
    for (const item of storage.items.keys()) storage.items.set(item, '1:1:0/16B3748:3')
    const elsewhere = await application({ storage })
    assert.deepEqual([elsewhere.resumption.state, elsewhere.gaps.length], ['gap', 1])
    assert.equal(elsewhere.channel.position, elsewhere.resumption.position)
    await elsewhere.leave()
  })
})
