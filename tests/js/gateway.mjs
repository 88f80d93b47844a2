// What the stack's gateway does to requests for Realtime, and no more: it takes the prefix off, lets nobody through to the
// admin API, and exchanges API keys for tokens.

import { once } from 'node:events'
import { createServer, request as forward } from 'node:http'

/** `keys`: what is exchanged for which token; a token goes through as it is. */
export async function startGateway(port, keys = {}) {
  const exchange = (key) => keys[key] ?? key

  const route = ({ url, headers }) => {
    const { pathname, searchParams } = new URL(url, 'http://gateway')
    if (/^\/realtime\/v1\/api\/(tenants|openapi)/.test(pathname)) return { forbidden: true }
    const given = headers.apikey ?? searchParams.get('apikey')
    if (pathname.startsWith('/realtime/v1/api')) {
      const authorization = headers.authorization?.startsWith('Bearer sb_') ? undefined : headers.authorization
      // A key alone ends up there bare, or as the bearer of what it was exchanged for.
      const alone = keys[given] ? `Bearer ${keys[given]}` : given
      const path = url.replace('/realtime/v1', '')
      return { path, headers: { ...headers, ...(given && { authorization: authorization ?? alone }) } }
    }
    searchParams.set('apikey', exchange(searchParams.get('apikey')))
    const path = `${pathname.replace('/realtime/v1/', '/socket/')}?${searchParams}`
    return { path, headers: { ...headers, 'x-api-key': exchange(given) } }
  }

  const send = (incoming, to) => {
    const { path, headers } = to
    const host = 'realtime-dev.supabase-realtime:4000'
    return forward({ port, path, method: incoming.method, headers: { ...headers, host } })
  }

  const server = createServer((incoming, outgoing) => {
    const to = route(incoming)
    if (to.forbidden) {
      outgoing.writeHead(403, { 'content-type': 'application/json' })
      return outgoing.end('{"message":"Access is forbidden."}')
    }
    const onward = send(incoming, to)
    onward.on('response', (answer) => {
      outgoing.writeHead(answer.statusCode, answer.headers)
      answer.pipe(outgoing)
    })
    onward.on('error', () => outgoing.destroy())
    incoming.pipe(onward)
  })
  server.on('upgrade', (incoming, client) => {
    const onward = send(incoming, route(incoming))
    onward.on('upgrade', (answer, relay, first) => {
      const head = answer.rawHeaders.map((text, at) => (at % 2 ? `${text}\r\n` : `${text}: `)).join('')
      client.write(`HTTP/1.1 101 Switching Protocols\r\n${head}\r\n`)
      relay.unshift(first)
      relay.pipe(client).pipe(relay)
      for (const socket of [relay, client]) socket.on('error', () => [relay, client].forEach((each) => each.destroy()))
    })
    onward.on('response', (answer) => client.end(`HTTP/1.1 ${answer.statusCode} Refused\r\n\r\n`))
    onward.on('error', () => client.destroy())
    onward.end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    async stop() {
      server.close()
      server.closeAllConnections()
    },
  }
}
