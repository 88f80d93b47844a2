// The network between a client and the relay, which tests may cut, or make slow; and a WebSocket that takes it as a browser's does.

import { once } from 'node:events'
import { connect, createServer } from 'node:net'

export async function startProxy(port) {
  const connections = new Set()
  let isDown = false
  let isHeld = false
  let noteHeld = () => {}

  const server = createServer((client) => {
    if (isDown) return client.destroy()
    const relay = connect(port, '127.0.0.1')
    const connection = { client, relay, late: [] }
    connections.add(connection)
    client.on('data', (chunk) => relay.write(chunk))
    relay.on('data', (chunk) => {
      if (!isHeld) return client.write(chunk)
      connection.late.push(chunk)
      noteHeld()
    })
    const end = () => {
      connections.delete(connection)
      client.destroy()
      relay.destroy()
    }
    for (const socket of [client, relay]) socket.on('error', end).on('close', end)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')

  const cut = () => connections.forEach(({ client, relay }) => [client, relay].forEach((socket) => socket.resetAndDestroy()))
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    /** Every connection is reset; what was on its way is lost. */
    cut,
    /** The same, and nobody gets through until `up`. */
    down() {
      isDown = true
      cut()
    },
    up() {
      isDown = false
    },
    /** Something more is being held back. */
    heldBack: () => new Promise((resolve) => (noteHeld = resolve)),
    /** What the relay sends arrives no earlier than `release`. */
    hold() {
      isHeld = true
    },
    release() {
      isHeld = false
      connections.forEach(({ client, late }) => late.splice(0).forEach((chunk) => client.write(chunk)))
    },
    async stop() {
      server.close()
      cut()
    },
  }
}

/**
 * Node 22's WebSocket, as browsers have it: a handler that throws is reported, and the next message comes; an attempt that fails ends
 * in a close event, which is what supabase-js waits for before it tries again.
 */
export class BrowsersWebSocket extends WebSocket {
  static reported = []
  #failed = false

  set onmessage(handler) {
    super.onmessage = (event) => {
      try {
        handler(event)
      } catch (error) {
        BrowsersWebSocket.reported.push(error)
      }
    }
  }

  set onerror(handler) {
    super.onerror = (event) => {
      this.#failed = super.readyState === WebSocket.CONNECTING
      handler(event)
      if (this.#failed) this.onclose?.(Object.assign(new Event('close'), { code: 1006 }))
    }
  }

  get readyState() {
    return this.#failed ? WebSocket.CLOSED : super.readyState
  }
}
