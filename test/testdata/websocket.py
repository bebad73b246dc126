# A WebSocket peer by the library websockets. "serve" echoes on ports 80 and 443; "ask HOST [PROXY]" sends messages and wants them back, by HTTP CONNECT through PROXY.
import asyncio, os, socket, sys
import websockets


async def echo(ws, *path):
    async for message in ws:
        await ws.send(message)


async def serve():
    for port in 80, 443:
        await websockets.serve(echo, "0.0.0.0", port, max_size=None)
    await asyncio.Future()


def tunnel(host, proxy):
    at, port = proxy.split(":")
    s = socket.create_connection((at, int(port)))
    s.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += s.recv(1)
    assert head.startswith(b"HTTP/1.1 200 "), head
    s.setblocking(False)
    return s


async def ask(host, proxy=None):
    more = {"sock": tunnel(host, proxy)} if proxy else {}
    async with websockets.connect(f"ws://{host}/chat", max_size=None, **more) as ws:
        for message in ["hello", "grüß dich", b"\x00\xff" * 1000, os.urandom(4 << 20)]:
            await ws.send(message)
            assert await ws.recv() == message, "another message came back"
        await (await ws.ping())
        await asyncio.gather(*(ws.send(str(i)) for i in range(100)))
        assert [await ws.recv() for _ in range(100)] == [str(i) for i in range(100)]
    assert ws.close_code == 1000, ws.close_code


asyncio.run(serve() if sys.argv[1] == "serve" else ask(*sys.argv[2:]))
