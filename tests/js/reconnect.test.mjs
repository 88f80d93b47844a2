// A client that is left alone while the relay goes and comes back.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { listen, rows, startStack } from './harness.mjs'

let stack

before(async () => {
  stack = await startStack()
})
after(() => stack?.stop())

test('after a restart of the relay a client rejoins by itself and receives what comes then', async () => {
  const client = stack.anonymous({ realtime: { reconnectAfterMs: () => 100 } })
  const service = stack.service()
  const announce = (title) => rows(service.from('announcements').insert({ title, published: true }))
  const { changes, statuses } = await listen(client, 'news', {
    event: 'INSERT',
    schema: 'public',
    table: 'announcements',
  })
  await announce('before')
  assert.equal((await changes.next()).new.title, 'before')

  await stack.restartWalcast(() => announce('while it was down'))
  await statuses.find(({ status }) => status === 'SUBSCRIBED', 'the second SUBSCRIBED')
  await announce('after')
  // What was committed meanwhile may or may not come, depending on which is faster, the relay or the client.
  const arrived = await changes.find((change) => change.new.title === 'after', 'the event after the restart')
  assert.equal(arrived.eventType, 'INSERT')
})
