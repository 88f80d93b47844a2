// Who is there, as supabase-js keeps it.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Inbox, startStack, subscribe } from './harness.mjs'

let stack

before(async () => {
  stack = await startStack()
})
after(() => stack?.stop())

/** A subscribed channel with an inbox for each presence event. */
async function enter(client, name, key = '') {
  const [joins, leaves, syncs] = [new Inbox(), new Inbox(), new Inbox()]
  const channel = client
    .channel(name, { config: { presence: { key } } })
    .on('presence', { event: 'join' }, joins.push)
    .on('presence', { event: 'leave' }, leaves.push)
    .on('presence', { event: 'sync' }, () => syncs.push(channel.presenceState()))
  await subscribe(channel)
  return { channel, joins, leaves, syncs }
}

const names = (state) =>
  Object.fromEntries(Object.entries(state).map(([key, metas]) => [key, metas.map(({ name }) => name)]))

test('whoever tracks is seen by those who were there and by those who come', async () => {
  const early = await enter(stack.anonymous(), 'lobby', 'early')
  assert.deepEqual(await early.syncs.next(), {})
  const ada = await enter(stack.anonymous(), 'lobby', 'ada')
  assert.equal(await ada.channel.track({ name: 'Ada' }), 'ok')
  const joined = await early.joins.next()
  assert.deepEqual([joined.key, joined.newPresences[0].name], ['ada', 'Ada'])
  const late = await enter(stack.anonymous(), 'lobby', 'late')
  assert.deepEqual(names(await late.syncs.next()), { ada: ['Ada'] })
})

test('an update replaces, an untrack removes, and a socket that goes takes its presence along', async () => {
  const watcher = await enter(stack.anonymous(), 'updates', 'watcher')
  const client = stack.anonymous()
  const bob = await enter(client, 'updates', 'bob')
  await bob.channel.track({ name: 'Bob', typing: false })
  await watcher.joins.next()
  await bob.channel.track({ name: 'Bob', typing: true })
  assert.equal((await watcher.joins.next()).newPresences[0].typing, true)
  assert.deepEqual(watcher.channel.presenceState().bob.map(({ typing }) => typing), [true])
  assert.equal(await bob.channel.untrack(), 'ok')
  await watcher.leaves.find(() => Object.keys(watcher.channel.presenceState()).length === 0, 'an empty room')
  await bob.channel.track({ name: 'Bob again' })
  await watcher.joins.find(({ newPresences }) => newPresences[0].name === 'Bob again', 'Bob again')
  client.realtime.disconnect()
  await watcher.leaves.find(({ leftPresences }) => leftPresences[0].name === 'Bob again', 'Bob gone')
  assert.deepEqual(watcher.channel.presenceState(), {})
})

test('several sockets of one person are several entries under one key', async () => {
  const watcher = await enter(stack.anonymous(), 'devices', 'watcher')
  for (const name of ['phone', 'laptop']) {
    const device = await enter(stack.anonymous(), 'devices', 'carol')
    await device.channel.track({ name })
    await watcher.joins.next()
  }
  assert.deepEqual(names(watcher.channel.presenceState()), { carol: ['phone', 'laptop'] })
})
