// A server written for Node.js, for client.js to ask. It listens on port 80.
'use strict';
const http = require('http');

function answer(req, res) {
	switch (req.url) {
	case '/hints':
		req.socket.write('HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n');
		res.writeHead(200, { 'X-sPelled': 'so' });
		return res.end('late');
	case '/204':
	case '/304':
		res.writeHead(Number(req.url.slice(1)));
		return res.end();
	}
	if (req.method === 'HEAD') {
		res.writeHead(200, { 'Content-Length': '12345' });
		return res.end();
	}
	if (req.headers.trailer) res.setHeader('Trailer', req.headers.trailer);
	req.on('data', (d) => res.write(d));
	req.on('end', () => { if (req.headers.trailer) res.addTrailers(req.trailers); res.end(); });
}

const server = http.createServer(answer);
server.on('checkContinue', (req, res) => {
	if (req.url === '/refuse') {
		res.writeHead(413, { 'Content-Length': '0' });
		return res.end();
	}
	res.writeContinue();
	answer(req, res);
});
server.on('upgrade', (req, socket) => {
	socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nfirst');
	socket.pipe(socket);
	socket.on('error', () => {});
});
server.listen(80, '0.0.0.0');
