// The client's end of demo/play_socket.py: connects, answers pictures, comes back after a loss.

export class PlaySocket {
  constructor(handlers) {
    this.handlers = handlers;
    this.wait = 1;
    this.open();
  }

  open() {
    const url = new URL("play", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    if (this.before) url.searchParams.set("before", this.before); // what was being recorded then is sent now
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.count = 0;
    this.socket.onmessage = (event) => (typeof event.data === "string" ? this.text(JSON.parse(event.data)) : this.binary(event.data));
    this.socket.onclose = ({ code }) => {
      this.handlers.closed(this.wait, code === 1013);
      setTimeout(() => this.open(), this.wait * 1000);
      this.wait = Math.min(this.wait * 2, 8);
    };
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  text(message) {
    if (message.type === "error") return this.handlers.error(message.message);
    this.wait = 1;
    if (message.type === "hello") this.before = message.player;
    this.handlers[message.type](message);
  }

  binary(data) {
    const length = new DataView(data).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    if (header.type === "picture") this.send({ type: "seen", count: ++this.count });
    this.handlers[header.type](header, new Uint8Array(data, 4 + length));
  }
}
