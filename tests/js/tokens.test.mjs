// Who somebody is: keys, tokens, and tokens that are replaced while a channel is open.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Inbox, listen, rows, signToken, startStack, userToken } from './harness.mjs'

const ada = '11111111-1111-4111-8111-111111111111'
const bob = '22222222-2222-4222-8222-222222222222'
const sessions = { event: 'INSERT', schema: 'public', table: 'live_chat_sessions' }

let stack

before(async () => {
  stack = await startStack()
})
after(() => stack?.stop())

const openSession = (user_id, subject) =>
  rows(stack.service().from('live_chat_sessions').insert({ user_id, subject }))

test('two people with one subscription each receive their own rows', async () => {
  const [hers, his] = [await listen(stack.user(ada), 'mine', sessions), await listen(stack.user(bob), 'mine', sessions)]
  await openSession(ada, 'of Ada')
  await openSession(bob, 'of Bob')
  await openSession(ada, 'of Ada again')
  await openSession(bob, 'of Bob again')
  for (const [side, name] of [[hers, 'Ada'], [his, 'Bob']]) {
    assert.equal((await side.changes.next()).new.subject, `of ${name}`)
    assert.equal((await side.changes.next()).new.subject, `of ${name} again`)
  }
})

test('setAuth replaces the person behind an open channel', async () => {
  const person = { token: userToken(ada) }
  const client = stack.client(person)
  const { changes, system } = await listen(client, 'switch', sessions)
  assert.equal((await system.next()).message, 'Subscribed to PostgreSQL')
  await openSession(ada, 'as Ada')
  assert.equal((await changes.next()).new.subject, 'as Ada')

  person.token = userToken(bob)
  await client.realtime.setAuth()
  assert.equal((await system.next()).message, 'Subscribed to PostgreSQL')
  await openSession(ada, 'no longer hers')
  await openSession(bob, 'as Bob')
  assert.equal((await changes.next()).new.subject, 'as Bob')
})

test('a refreshed token of the same person keeps the channel open past the old expiry', async () => {
  const person = { token: userToken(ada, { exp: Math.floor(Date.now() / 1000) + 3 }) }
  const client = stack.client(person)
  const refreshed = await listen(client, 'refreshed', sessions)
  const left = await listen(stack.client({ token: person.token }), 'left to expire', sessions)
  assert.equal((await refreshed.system.next()).status, 'ok')
  assert.equal((await left.system.next()).status, 'ok')

  person.token = userToken(ada, { refreshed: true })
  await client.realtime.setAuth()
  assert.equal((await refreshed.system.next()).message, 'Subscribed to PostgreSQL')

  const told = await left.system.next('the end of the old token')
  assert.equal(told.status, 'error')
  assert.match(told.message, /^Token has expired \d+ seconds ago$/)
  assert.equal((await left.statuses.next()).status, 'CLOSED')

  await openSession(ada, 'after the expiry')
  assert.equal((await refreshed.changes.next()).new.subject, 'after the expiry')
  assert.equal(left.changes.pending, 0)
})

test('a join with a token of another secret is refused with the reason', async () => {
  const client = stack.client({ token: signToken({ role: 'authenticated', sub: ada }, 'another-secret-of-32-characters!') })
  await assert.rejects(listen(client, 'forged', sessions), /JwtSignatureError: Failed to validate JWT signature/)
})

test('a key of another secret does not even connect', async () => {
  const client = stack.anonymous({ key: signToken({ role: 'anon' }, 'another-secret-of-32-characters!') })
  const statuses = new Inbox()
  client.channel('never').subscribe((status) => statuses.push(status))
  assert.notEqual(await statuses.next(), 'SUBSCRIBED')
})
