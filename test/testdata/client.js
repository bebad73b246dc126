// Asks a server as programs written for Node.js do. Arguments: the server's host, and a proxy's host:port or nothing. It ends with 0 if every answer was right.
'use strict';
const http = require('http');
const assert = require('assert');
const [host, proxy] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function ask(options, body, more) {
	const o = { agent, host, path: '/', ...options };
	if (proxy) {
		[o.host, o.port] = proxy.split(':');
		o.headers = { Host: host, ...o.headers };
		o.path = 'http://' + host + o.path;
	}
	return new Promise((resolve, reject) => {
		const seen = { interim: [] };
		const req = http.request(o);
		req.on('error', reject);
		req.on('continue', () => { seen.continued = true; req.end(body); });
		req.on('information', (i) => seen.interim.push(i.statusCode));
		req.on('response', (res) => {
			const parts = [];
			res.on('data', (d) => parts.push(d));
			res.on('error', reject);
			res.on('end', () => resolve({ ...seen, status: res.statusCode, body: Buffer.concat(parts), headers: res.headers, raw: res.rawHeaders, trailers: res.trailers, port: req.socket.localPort }));
		});
		if (more) more(req);
		else if (!(o.headers && o.headers.Expect)) req.end(body);
	});
}

async function main() {
	// Twenty requests on one connection.
	const ports = new Set();
	for (let i = 0; i < 20; i++) {
		const a = await ask({ path: '/echo?' + i, method: 'POST' }, 'x'.repeat(i * 1000));
		assert.strictEqual(a.status, 200);
		assert.strictEqual(a.body.length, i * 1000);
		ports.add(a.port);
	}
	assert.strictEqual(ports.size, 1, 'one connection');
	// A large body in chunks, with a trailer, both ways.
	const large = Buffer.alloc(3 << 20, 'salp');
	let a = await ask({ path: '/echo', method: 'POST', headers: { Trailer: 'X-Sum' } }, null, (req) => {
		for (let i = 0; i < large.length; i += 100000) req.write(large.subarray(i, i + 100000));
		req.addTrailers({ 'X-Sum': 'right' });
		req.end();
	});
	assert.ok(a.body.equals(large), 'the body came back');
	assert.strictEqual(a.trailers['x-sum'], 'right');
	// Expect: 100-continue, granted and refused.
	a = await ask({ path: '/echo', method: 'PUT', headers: { Expect: '100-continue', 'Content-Length': 5 } }, 'hello', (req) => req.flushHeaders());
	assert.ok(a.continued && a.body.toString() === 'hello');
	a = await ask({ path: '/refuse', method: 'PUT', headers: { Expect: '100-continue', 'Content-Length': 5 } }, 'hello', (req) => req.flushHeaders());
	assert.ok(!a.continued && a.status === 413);
	// Early hints, HEAD, no content, not modified, and the spelling of fields.
	a = await ask({ path: '/hints' });
	assert.deepStrictEqual(a.interim, [103]);
	assert.ok(a.raw.includes('X-sPelled'), String(a.raw));
	a = await ask({ path: '/echo', method: 'HEAD' });
	assert.ok(a.status === 200 && a.headers['content-length'] === '12345');
	assert.strictEqual((await ask({ path: '/204' })).status, 204);
	assert.strictEqual((await ask({ path: '/304' })).status, 304);
	// fetch, as in browsers; ten at once.
	if (!proxy && typeof fetch === 'function') {
		const all = await Promise.all(Array.from({ length: 10 }, (_, i) => fetch('http://' + host + '/echo', { method: 'POST', body: 'b' + i }).then((r) => r.text())));
		assert.deepStrictEqual(all, Array.from({ length: 10 }, (_, i) => 'b' + i));
	}
	// Another protocol, with bytes right behind the switch.
	if (!proxy) {
		await new Promise((resolve, reject) => {
			const req = http.request({ host, path: '/up', headers: { Connection: 'Upgrade', Upgrade: 'echo' } });
			req.on('error', reject);
			req.on('response', () => reject(new Error('not switched')));
			req.on('upgrade', (res, socket, first) => {
				let got = first.toString();
				socket.on('data', (d) => { got += d; if (got === 'firstsecond') socket.end(); });
				socket.on('close', () => got === 'firstsecond' ? resolve() : reject(new Error(got)));
				socket.write('second');
			});
			req.end();
		});
	}
	agent.destroy();
}

main().catch((e) => { console.error(e); process.exit(1); });
