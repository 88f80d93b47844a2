// Clients that come back are sent what they missed, with no code of their own but a key in the binding.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, test } from 'node:test'
import { Inbox, listen, startStack, subscribe, until } from './harness.mjs'
import { BrowsersWebSocket, startProxy } from './proxy.mjs'

let stack, proxy

before(async () => {
  stack = await startStack({ flags: ['--resume-write-interval', '10ms'] })
  proxy = await startProxy(new URL(stack.url).port)
  // What the relay takes for acknowledged, and when it wrote that down.
  await stack.sql(`
    create table acknowledged (place bigint generated always as identity, key bytea, lsn pg_lsn, index bigint, at float8);
    create function note_acknowledged() returns trigger language plpgsql security definer set search_path = '' as $$
      begin
        insert into public.acknowledged (key, lsn, index, at)
          values (new.key, new.position, new.index, extract(epoch from clock_timestamp()) * 1000);
        return null;
      end $$;
    create trigger note after insert or update on walcast.resume_keys for each row execute function note_acknowledged()`)
})
after(async () => {
  await proxy?.stop()
  await stack?.stop()
})

const announce = (...titles) =>
  stack.sql('insert into announcements (title, published) select title, true from unnest($1::text[]) title', [titles])
const announcements = (more) => ({ event: '*', schema: 'public', table: 'announcements', ...more })
const key = () => `tab-${randomUUID()}`

/** An anonymous client whose connection can be cut. */
const behindProxy = (realtime = {}) =>
  stack.anonymous({ url: proxy.url, realtime: { reconnectAfterMs: () => 50, transport: BrowsersWebSocket, ...realtime } })

const resumed = (system) => system.find((payload) => payload.resume, 'the message about resuming')

/** What may come between a client and the relay; `meanwhile` is what happens while it lasts. */
const ways = {
  'a cut connection': async (meanwhile) => {
    proxy.down()
    await meanwhile()
    proxy.up()
  },
  'a relay that is stopped and started': (meanwhile) => stack.restartWalcast(meanwhile, 'SIGTERM'),
  'a relay that is killed': (meanwhile) => stack.restartWalcast(meanwhile, 'SIGKILL'),
}

/** `sys:timeline:X/X:index`; no index: all of the transaction. */
function parsePosition(text) {
  const [, , lsn, index] = text.split(':')
  const [high, low] = lsn.split('/').map((part) => BigInt(`0x${part}`))
  return { lsn: (high << 32n) | low, index: index === undefined ? Infinity : Number(index) }
}
const isUpTo = (one, other) => one.lsn < other.lsn || (one.lsn === other.lsn && one.index <= other.index)

test('a key in the binding is enough', async (t) => {
  const client = behindProxy({ heartbeatIntervalMs: 200 })
  const { changes, system } = await listen(client, 'news', announcements({ event: 'INSERT', resume: key() }))
  const { message, ...first } = await resumed(system)
  const { position, ...resume } = first.resume
  assert.deepEqual({ ...first, resume }, {
    status: 'ok',
    extension: 'postgres_changes',
    channel: 'news',
    resume: { state: 'started' },
  })
  assert.match(message, /can be resumed/)
  assert.match(position, /^\d+:1:[0-9A-F]+\/[0-9A-F]+(:\d+)?$/)

  let round = 0
  const earlier = []
  for (const [name, way] of Object.entries(ways)) {
    await t.test(name, async () => {
      round += 1
      const title = (text) => `${round} ${text}`
      await announce(title('before'))
      assert.equal((await changes.next()).new.title, title('before'))
      earlier.push(title('before'))
      await way(async () => {
        await announce(title('missed'))
        await announce(title('a transaction'), title('of two'))
      })
      const said = await resumed(system)
      assert.deepEqual([said.status, said.resume.state], ['ok', 'complete'], JSON.stringify(said))
      assert.ok(isUpTo(parsePosition(said.resume.from), parsePosition(said.resume.position)))
      await announce(title('after'))

      const titles = []
      while (titles.at(-1) !== title('after')) titles.push((await changes.next()).new.title)
      const missed = ['missed', 'a transaction', 'of two', 'after'].map(title)
      assert.deepEqual(titles.slice(-missed.length), missed)
      // What was there before and was not acknowledged comes again, in its old order.
      const again = titles.slice(0, -missed.length)
      const before = earlier.slice(earlier.length - again.length)
      assert.deepEqual(again, before)
      earlier.push(...missed)
    })
  }
})

// Acknowledging ----------------------------------------------------------------------------------------------------------

const now = () => performance.timeOrigin + performance.now()
/** Blocks the whole client, as a slow handler does. */
const block = (milliseconds) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds)

/** A client whose handler notes when it has had what; `handle` is the rest of the handler. */
async function witness(name, heartbeatIntervalMs, handle = () => {}) {
  const {
    rows: [{ mark }],
  } = await stack.sql('select coalesce(max(place), 0) as mark from acknowledged')
  const client = behindProxy({ heartbeatIntervalMs })
  await client.realtime.setAuth()
  const system = new Inbox()
  const had = []
  const channel = client
    .channel(name)
    .on('system', {}, system.push)
    .on('postgres_changes', announcements({ event: 'INSERT', resume: key(), positions: true }), (change) => {
      try {
        handle(change)
      } finally {
        had.push({ title: change.new.title, at: now(), ...parsePosition(change.new.walcast_position) })
      }
    })
  await subscribe(channel)
  await resumed(system)

  const acknowledgements = async () => {
    const { rows } = await stack.sql(
      `select lsn - '0/0' as lsn, index, at from acknowledged
        where key = (select key from acknowledged where place > $1 order by place limit 1) order by place`,
      [mark],
    )
    return rows.map(({ lsn, index, at }) => ({ lsn: BigInt(lsn), index: Number(index), at }))
  }
  return {
    client,
    had,
    /** Waits until the last of `count` changes is acknowledged, and sees that none was before the handler had it. */
    async verify(count) {
      await until('all changes', () => new Set(had.map(({ title }) => title)).size === count)
      const last = had.at(-1)
      const all = await until('an acknowledgement of the last change', async () => {
        const all = await acknowledgements()
        return all.some((position) => isUpTo(last, position)) && all
      })
      for (const position of all) {
        for (const change of had.filter((change) => isUpTo(change, position))) {
          const first = had.find(({ title }) => title === change.title)
          assert.ok(
            first.at <= position.at,
            `${change.title} was acknowledged ${first.at - position.at} ms before the handler had had it`,
          )
        }
      }
      await client.removeChannel(channel)
      client.realtime.disconnect()
      return all.length
    },
  }
}

/** Commits one after the other for a while, in the server, whatever this process is busy with. */
const announceSlowly = (count, pauseMs) =>
  stack.sql(`do $$ begin
    for i in 1 .. ${count} loop
      insert into announcements (title, published) values ('slowly ' || i, true);
      commit;
      perform pg_sleep(${pauseMs} / 1000.0);
    end loop;
  end $$`)

test('heartbeats acknowledge what handlers have had', async () => {
  const { verify } = await witness('prompt', 100)
  await announceSlowly(30, 20)
  assert.ok((await verify(30)) > 2, 'one after the other, and not all at the end')
})

test('no acknowledgement is ahead of a slow handler', async () => {
  const { verify } = await witness('slow', 400, () => block(50))
  await announceSlowly(30, 10)
  await verify(30)
})

test('a handler that throws has had its change', async () => {
  const { verify } = await witness('throwing', 100, ({ new: { title } }) => {
    throw new Error(`not this one: ${title}`)
  })
  await announceSlowly(10, 20)
  await verify(10)
  assert.ok(BrowsersWebSocket.reported.length >= 10)
})

test('no acknowledgement is ahead of what is still on its way', async () => {
  const straight = await listen(stack.anonymous(), 'straight', announcements({ event: 'INSERT' }))
  const { client, had, verify } = await witness('held', 1000)
  for (const round of [1, 2]) {
    const heartbeats = new Inbox()
    client.realtime.onHeartbeat(heartbeats.push)
    await heartbeats.find((status) => status === 'ok')
    // From here on the network is slow: changes and the next heartbeat's reply have been sent, and nobody has them.
    proxy.hold()
    await announce(`${round} held`, `${round} held, too`)
    await straight.changes.find(({ new: { title } }) => title === `${round} held, too`)
    await heartbeats.find((status) => status === 'sent')
    await proxy.heldBack()
    assert.equal(had.length, 2 * (round - 1))
    proxy.release()
  }
  await verify(4)
})

// Positions of one's own -------------------------------------------------------------------------------------------------

test('a getter for `since` is exactly once, over many cuts', async () => {
  let since
  const ids = []
  const binding = {
    ...announcements({ event: 'INSERT', resume: key(), positions: true }),
    get since() {
      return since
    },
  }
  let cutAfter = Infinity
  const client = behindProxy()
  await client.realtime.setAuth()
  const system = new Inbox()
  const channel = client
    .channel('exact')
    .on('system', {}, system.push)
    .on('postgres_changes', binding, (change) => {
      since = change.new.walcast_position
      ids.push(change.new.id)
      if (ids.length === cutAfter) proxy.cut()
    })
  await subscribe(channel)
  since = (await resumed(system)).resume.position

  const expected = []
  const three = async () => {
    const { rows } = await stack.sql(
      "insert into announcements (title, published) select 'exact ' || n, true from generate_series(1, 3) n returning id",
    )
    expected.push(...rows.map(({ id }) => Number(id)))
  }
  for (const way of [...Object.values(ways), ...Object.values(ways)]) {
    // In the middle of a transaction the connection is gone,
    cutAfter = ids.length + 2
    await three()
    assert.equal((await resumed(system)).resume.state, 'complete')
    await until('the transaction', () => ids.length >= expected.length)
    // and when it is back, everything else.
    await way(three)
    assert.equal((await resumed(system)).resume.state, 'complete')
    await until('what was missed', () => ids.length >= expected.length)
  }
  await three()
  await until('what comes then', () => ids.length >= expected.length)
  assert.deepEqual(ids, expected)
})

test('positions are in the rows that callbacks see', async () => {
  const { changes } = await listen(stack.anonymous(), 'positions', announcements({ positions: true }))
  const plain = await listen(stack.anonymous(), 'plain', announcements())
  await stack.sql(`
    insert into announcements (title, published) values ('with a position', true);
    update announcements set body = 'text' where title = 'with a position';
    delete from announcements where title = 'with a position'`)
  const [inserted, updated, deleted] = [await changes.next(), await changes.next(), await changes.next()]
  const positions = [inserted.new, updated.new, deleted.old].map((row) => parsePosition(row.walcast_position))
  assert.ok(isUpTo(positions[0], positions[1]) && isUpTo(positions[1], positions[2]))
  assert.equal(new Set(positions.map(({ lsn, index }) => `${lsn} ${index}`)).size, 3)
  assert.equal(updated.old.walcast_position, undefined)
  for (let i = 0; i < 3; i++) {
    const { new: row, old } = await plain.changes.next()
    assert.ok(!('walcast_position' in row) && !('walcast_position' in old))
  }
})
