// Broadcast as chat applications use it: cursors, typing, files; over the socket, over HTTP, from SQL; public and private.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Inbox, listen, startStack, subscribe, userToken } from './harness.mjs'

const ada = '33333333-3333-4333-8333-333333333333'
const bob = '44444444-4444-4444-8444-444444444444'

let stack

before(async () => {
  stack = await startStack()
  // A room belongs to the person it is named after; others may read the open ones, and nobody else may write.
  await stack.sql(`
    create policy "own rooms" on realtime.messages for select to authenticated
      using (realtime.topic() = 'room:' || auth.uid()::text or realtime.topic() like 'open:%');
    create policy "write to own rooms" on realtime.messages for insert to authenticated
      with check (realtime.topic() = 'room:' || auth.uid()::text or realtime.topic() = 'open:' || auth.uid()::text);
  `)
})
after(() => stack?.stop())

/** A subscribed channel with an inbox for its broadcasts. */
async function hear(client, name, config = {}, event = '*') {
  await client.realtime.setAuth()
  const heard = new Inbox()
  const channel = client.channel(name, { config }).on('broadcast', { event }, heard.push)
  await subscribe(channel)
  return { channel, heard }
}

const send = (channel, event, payload) => channel.send({ type: 'broadcast', event, payload })

test('a broadcast reaches everybody on the topic but its sender, who gets it where that is asked for', async () => {
  const [one, two] = [await hear(stack.anonymous(), 'cursors'), await hear(stack.anonymous(), 'cursors')]
  const echo = await hear(stack.anonymous(), 'cursors', { broadcast: { self: true } })
  assert.equal(await send(one.channel, 'move', { x: 1, nested: { y: [2, null] } }), 'ok')
  for (const { heard } of [two, echo]) {
    const message = await heard.next()
    assert.deepEqual([message.event, message.payload], ['move', { x: 1, nested: { y: [2, null] } }])
  }
  await send(echo.channel, 'move', { x: 2 })
  for (const { heard } of [one, two, echo]) assert.equal((await heard.next()).payload.x, 2)
  assert.equal(one.heard.pending, 0)
})

test('an acknowledged broadcast says ok, and one that is too large says so', async () => {
  const { channel } = await hear(stack.anonymous(), 'acks', { broadcast: { ack: true } })
  assert.equal(await send(channel, 'e', { small: true }), 'ok')
  assert.notEqual(await send(channel, 'e', { large: 'x'.repeat(3_100_000) }), 'ok')
  assert.equal(await send(channel, 'e', { small: true }), 'ok')
})

test('bytes arrive as bytes, and not at all where the first serializer is spoken', async () => {
  const receiver = await hear(stack.anonymous(), 'files')
  const old = await hear(stack.anonymous({ realtime: { vsn: '1.0.0' } }), 'files')
  const sender = await hear(stack.anonymous(), 'files')
  const bytes = new Uint8Array([0, 255, 1, 128]).buffer
  await send(sender.channel, 'upload', bytes)
  await send(sender.channel, 'done', { ok: true })
  const message = await receiver.heard.next()
  assert.deepEqual([message.event, new Uint8Array(message.payload)], ['upload', new Uint8Array(bytes)])
  assert.equal((await receiver.heard.next()).event, 'done')
  assert.equal((await old.heard.next()).event, 'done')
})

test('clients of either serializer hear each other', async () => {
  const [two, one] = [
    await hear(stack.anonymous(), 'versions'),
    await hear(stack.anonymous({ realtime: { vsn: '1.0.0' } }), 'versions'),
  ]
  await send(two.channel, 'hi', { from: 2 })
  assert.equal((await one.heard.next()).payload.from, 2)
  await send(one.channel, 'hi', { from: 1 })
  assert.equal((await two.heard.next()).payload.from, 1)
})

test('send() before the join and httpSend() go over HTTP and reach subscribers', async () => {
  const { heard } = await hear(stack.anonymous(), 'posted')
  const elsewhere = stack.anonymous().channel('posted')
  assert.equal(await send(elsewhere, 'unjoined', { n: 1 }), 'ok')
  const first = await heard.next()
  assert.deepEqual([first.event, first.payload], ['unjoined', { n: 1 }])
  assert.deepEqual(await elsewhere.httpSend('single', { n: 2 }), { success: true })
  assert.deepEqual((await heard.next()).payload, { n: 2 })
  await elsewhere.httpSend('bytes', new Uint8Array([7, 8]).buffer)
  assert.deepEqual(new Uint8Array((await heard.next()).payload), new Uint8Array([7, 8]))
})

test('a private channel is for whom its policies name, and is not the public one of that name', async () => {
  const [adas, bobs] = [stack.client({ token: userToken(ada) }), stack.client({ token: userToken(bob) })]
  const mine = await hear(adas, `room:${ada}`, { private: true, broadcast: { ack: true, self: true } })
  const open = await hear(stack.anonymous(), `room:${ada}`, { broadcast: { self: true } })
  await bobs.realtime.setAuth()
  await assert.rejects(subscribe(bobs.channel(`room:${ada}`, { config: { private: true } })), /Unauthorized/)
  assert.equal(await send(mine.channel, 'secret', { n: 1 }), 'ok')
  assert.equal((await mine.heard.next()).payload.n, 1)
  await send(open.channel, 'public', { n: 2 })
  assert.equal((await open.heard.next()).payload.n, 2, 'the first that the public one hears is its own')
  await send(mine.channel, 'secret', { n: 3 })
  assert.equal((await mine.heard.next()).payload.n, 3, 'and nothing of it came here')
})

test('whoever may read but not write is not heard', async () => {
  const own = { private: true, broadcast: { self: true } }
  const adas = await hear(stack.client({ token: userToken(ada) }), `open:${ada}`, own)
  const bobs = await hear(stack.client({ token: userToken(bob) }), `open:${ada}`, { private: true })
  await send(bobs.channel, 'forged', {})
  // Answered after what was sent before it.
  assert.notEqual(await bobs.channel.track({}), 'ok')
  await send(adas.channel, 'true', {})
  for (const { heard } of [bobs, adas]) assert.equal((await heard.next()).event, 'true')
})

test('realtime.send reaches private and public channels, with the id of its row', async () => {
  const mine = await hear(stack.client({ token: userToken(ada) }), `room:${ada}`, { private: true })
  const open = await hear(stack.anonymous(), `room:${ada}`)
  await stack.sql(`select realtime.send('{"n": 1.50}', 'db', $1, true)`, [`room:${ada}`])
  await stack.sql(`select realtime.send('{"n": 2, "id": "own"}', 'db', $1, false)`, [`room:${ada}`])
  const [one, two] = [await mine.heard.next(), await open.heard.next()]
  assert.equal(one.payload.n, 1.5)
  assert.equal(one.payload.id, one.meta.id)
  assert.deepEqual([two.payload.n, two.payload.id], [2, 'own'])
  assert.match(two.meta.id, /^[0-9a-f-]{36}$/)
})

test('send_binary arrives as bytes', async () => {
  const { heard } = await hear(stack.anonymous(), 'db-bytes')
  await stack.sql(`select realtime.send_binary('\\x00ff10', 'db', 'db-bytes', false)`)
  assert.deepEqual(new Uint8Array((await heard.next()).payload), new Uint8Array([0, 255, 16]))
})

test('a trigger with broadcast_changes tells a private channel of inserts, updates and deletes', async () => {
  await stack.sql(`
    create table orders (id int primary key, owner uuid, total numeric);
    create function tell_owner() returns trigger language plpgsql security definer as $$
    begin
      perform realtime.broadcast_changes('room:' || coalesce(new.owner, old.owner)::text, tg_op, tg_op, tg_table_name,
        tg_table_schema, new, old);
      return null;
    end $$;
    create trigger tell_owner after insert or update or delete on orders for each row execute function tell_owner();
  `)
  const { heard } = await hear(stack.client({ token: userToken(ada) }), `room:${ada}`, { private: true })
  await stack.sql(`insert into orders values (1, '${ada}', 9.90)`)
  await stack.sql(`update orders set total = 12`)
  await stack.sql(`delete from orders`)
  const events = [await heard.next(), await heard.next(), await heard.next()]
  assert.deepEqual(events.map(({ event }) => event), ['INSERT', 'UPDATE', 'DELETE'])
  const { record, old_record, operation, table, schema } = events[0].payload
  assert.deepEqual([record.total, old_record, operation, table, schema], [9.9, null, 'INSERT', 'orders', 'public'])
  assert.deepEqual([events[1].payload.record.total, events[1].payload.old_record.total], [12, 9.9])
  assert.equal(events[2].payload.record, null)
})

test('what was sent before is replayed to whoever asks, once, oldest first', async () => {
  const since = Date.now() - 60_000
  const topic = `open:${bob}`
  for (const n of [1, 2, 3]) await stack.sql(`select realtime.send($1, 'past', $2, true)`, [{ n }, topic])
  const live = await hear(stack.client({ token: userToken(ada) }), topic, { private: true })
  const config = { private: true, broadcast: { replay: { since, limit: 2 } } }
  const { heard } = await hear(stack.client({ token: userToken(ada) }), topic, config)
  await stack.sql(`select realtime.send('{"n": 4}', 'live', $1, true)`, [topic])
  const messages = [await heard.next(), await heard.next(), await heard.next()]
  assert.deepEqual(messages.map(({ payload }) => payload.n), [2, 3, 4])
  assert.deepEqual(messages.map(({ meta }) => meta.replayed ?? false), [true, true, false])
  assert.ok(live.channel)
})

test('an announced trigger, a listener of one event, and changes share a channel', async () => {
  const client = stack.service()
  const { channel, changes } = await listen(client, 'all-of-it', {
    event: 'INSERT',
    schema: 'public',
    table: 'announcements',
  })
  await stack.sql(`insert into announcements (title, published) values ('both', true)`)
  assert.equal((await changes.next()).new.title, 'both')
  assert.equal(await send(channel, 'typing', {}), 'ok')
})
