// The conversation that walcast was written for: a customer, an agent, and people who must not listen.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { listen, rows, startStack } from './harness.mjs'

const customerId = '11111111-1111-4111-8111-111111111111'
const otherCustomerId = '22222222-2222-4222-8222-222222222222'
const agentId = '33333333-3333-4333-8333-333333333333'
const adminId = '55555555-5555-4555-8555-555555555555'

let stack, customer, otherCustomer, agent, admin

before(async () => {
  stack = await startStack()
  customer = stack.user(customerId)
  otherCustomer = stack.user(otherCustomerId)
  agent = stack.user(agentId)
  admin = stack.user(adminId, { app_metadata: { role: 'admin' } })
  await stack.sql('insert into support_agents (user_id, display_name) values ($1, $2)', [agentId, 'Ada'])
})
after(() => stack?.stop())

const openSession = async (client) =>
  (await rows(client.from('live_chat_sessions').insert({ subject: 'Help' }).select())).at(0)

const messagesOf = (sessionId, event = '*') => ({
  event,
  schema: 'public',
  table: 'chat_messages',
  filter: `session_id=eq.${sessionId}`,
})

test('a customer and an agent talk on messages-<sessionId>', async () => {
  const queue = await listen(agent, 'queue', { event: '*', schema: 'public', table: 'live_chat_sessions' })

  const session = await openSession(customer)
  const waiting = await queue.changes.next()
  assert.equal(waiting.eventType, 'INSERT')
  assert.equal(waiting.new.id, session.id)
  assert.equal(waiting.new.status, 'waiting')

  const ofSession = { event: '*', schema: 'public', table: 'live_chat_sessions', filter: `id=eq.${session.id}` }
  const customerSide = await listen(customer, `messages-${session.id}`, messagesOf(session.id), ofSession)
  const agentSide = await listen(agent, `messages-${session.id}`, messagesOf(session.id))

  await rows(agent.from('live_chat_sessions').update({ status: 'active', agent_id: agentId }).eq('id', session.id))
  const taken = await customerSide.changes.next()
  assert.deepEqual([taken.table, taken.eventType, taken.new.agent_id], ['live_chat_sessions', 'UPDATE', agentId])
  assert.equal(taken.old.id, session.id)

  await rows(customer.from('chat_messages').insert({ session_id: session.id, body: 'Hello?' }))
  await rows(agent.from('chat_messages').insert({ session_id: session.id, body: 'Hi.', sender_type: 'agent' }))
  for (const side of [customerSide, agentSide]) {
    const [question, answer] = [await side.changes.next(), await side.changes.next()]
    assert.deepEqual([question.new.body, question.new.sender_id], ['Hello?', customerId])
    assert.deepEqual([answer.new.body, answer.new.sender_id, answer.new.sender_type], ['Hi.', agentId, 'agent'])
    assert.deepEqual(question.new.metadata, {})
    assert.equal(question.errors, null)
  }

  await rows(customer.from('chat_messages').update({ body: 'Hello!' }).eq('sender_id', customerId))
  const edited = await agentSide.changes.next()
  assert.deepEqual([edited.eventType, edited.new.body, edited.old.body], ['UPDATE', 'Hello!', 'Hello?'])

  await rows(customer.from('chat_messages').delete().eq('sender_id', customerId))
  const deleted = await agentSide.changes.next()
  assert.deepEqual([deleted.eventType, deleted.old.id, deleted.new], ['DELETE', edited.new.id, {}])
})

test('somebody else on the same channel with the same filter hears nothing', async () => {
  const session = await openSession(customer)
  const own = await openSession(otherCustomer)
  const intruder = await listen(
    otherCustomer,
    `messages-${session.id}`,
    messagesOf(session.id),
    messagesOf(own.id),
  )
  const anonymous = await listen(
    stack.anonymous(),
    `messages-${session.id}`,
    messagesOf(session.id),
    { event: 'INSERT', schema: 'public', table: 'announcements' },
  )
  const owner = await listen(customer, `messages-${session.id}`, messagesOf(session.id))

  await rows(customer.from('chat_messages').insert({ session_id: session.id, body: 'between us' }))
  assert.equal((await owner.changes.next()).new.body, 'between us')

  // What each of them may see comes later in the same order: had the message been theirs, it would stand before.
  await rows(otherCustomer.from('chat_messages').insert({ session_id: own.id, body: 'my own' }))
  await rows(stack.service().from('announcements').insert({ title: 'for all', published: true }))
  assert.equal((await intruder.changes.next()).new.body, 'my own')
  assert.equal((await anonymous.changes.next()).new.title, 'for all')
})

test('an admin by app_metadata hears every session', async () => {
  const everything = await listen(admin, 'monitor', { event: 'INSERT', schema: 'public', table: 'chat_messages' })
  for (const client of [customer, otherCustomer]) {
    const session = await openSession(client)
    await rows(client.from('chat_messages').insert({ session_id: session.id, body: 'for the record' }))
    assert.equal((await everything.changes.next()).new.session_id, session.id)
  }
})

test('an agent stops hearing a session that another agent has taken', async () => {
  const colleagueId = '44444444-4444-4444-8444-444444444444'
  await stack.sql('insert into support_agents (user_id, display_name) values ($1, $2)', [colleagueId, 'Bob'])
  const session = await openSession(customer)
  const listening = await listen(agent, 'all-messages', { event: 'INSERT', schema: 'public', table: 'chat_messages' })
  await rows(customer.from('chat_messages').insert({ session_id: session.id, body: 'anyone?' }))
  assert.equal((await listening.changes.next()).new.body, 'anyone?')

  const colleague = stack.user(colleagueId)
  await rows(colleague.from('live_chat_sessions').update({ status: 'active', agent_id: colleagueId }).eq('id', session.id))
  await rows(customer.from('chat_messages').insert({ session_id: session.id, body: 'to Bob alone' }))

  const next = await openSession(customer)
  await rows(customer.from('chat_messages').insert({ session_id: next.id, body: 'anyone else?' }))
  assert.equal((await listening.changes.next()).new.body, 'anyone else?')
})

test('members of a workspace hear its partitioned inbox under the name of the root, until they leave', async () => {
  const [workspace, contact] = ['bbbbbbbb-0000-4000-8000-000000000001', 'cccccccc-0000-4000-8000-000000000001']
  await stack.sql('insert into workspace_members (workspace_id, user_id) values ($1, $2), ($1, $3)', [
    workspace,
    customerId,
    agentId,
  ])
  const inbox = { event: '*', schema: 'public', table: 'livechat_messages', filter: `workspace_id=eq.${workspace}` }
  const member = await listen(customer, 'inbox', inbox)
  const leaver = await listen(agent, 'inbox', inbox, { event: '*', schema: 'public', table: 'support_agents' })
  const service = stack.service()
  const receive = (body, created_at) =>
    rows(
      service
        .from('livechat_messages')
        .insert({ workspace_id: workspace, contact_id: contact, direction: 'inbound', body, created_at }),
    )

  await rows(service.from('contacts').insert({ id: contact, workspace_id: workspace, name: 'Eve' }))
  await receive('first')
  await receive('from another month', '2001-01-01T00:00:00Z')
  for (const side of [member, leaver]) {
    for (const body of ['first', 'from another month']) {
      const change = await side.changes.next()
      assert.deepEqual([change.table, change.new.body], ['livechat_messages', body])
    }
  }

  await stack.sql('delete from workspace_members where user_id = $1', [agentId])
  await receive('after the agent left')
  await rows(service.from('support_agents').update({ display_name: 'Ada L.' }).eq('user_id', agentId))
  assert.equal((await member.changes.next()).new.body, 'after the agent left')
  assert.equal((await leaver.changes.next()).table, 'support_agents')
})
