// Draws saved anywidget widgets in the built page: no kernel, no widget manager, no request.
(() => {
  const scripts = (kind) => document.querySelectorAll(`script[type="application/vnd.jupyter.widget-${kind}+json"]`);

  function bytes(buffer) {
    const values = buffer.encoding === "hex"
      ? buffer.data.match(/../g).map((pair) => parseInt(pair, 16))
      : Array.from(atob(buffer.data), (char) => char.charCodeAt(0));
    return new DataView(Uint8Array.from(values).buffer);
  }

  class Model {
    constructor(state) { this.state = state; this.handlers = new Map(); }
    get(name) { return this.state[name]; }
    set(name, value) {
      if (this.state[name] === value) return;
      this.state[name] = value;
      this.emit(`change:${name}`, value);
      this.emit("change");
    }
    on(event, handler) {
      if (!this.handlers.has(event)) this.handlers.set(event, new Set());
      this.handlers.get(event).add(handler);
    }
    off(event, handler) { this.handlers.get(event)?.delete(handler); }
    emit(event, value) { for (const handler of this.handlers.get(event) ?? []) handler(value); }
    save_changes() {}
    send() {}
  }

  function note(element, text) {
    const paragraph = document.createElement("p");
    paragraph.textContent = text;
    element.append(paragraph);
  }

  function saved() {
    const models = new Map();
    for (const script of scripts("state")) {
      for (const [id, entry] of Object.entries(JSON.parse(script.textContent).state)) {
        for (const buffer of entry.buffers ?? []) {
          let owner = entry.state;
          for (const key of buffer.path.slice(0, -1)) owner = owner[key];
          owner[buffer.path.at(-1)] = bytes(buffer);
        }
        models.set(id, { model: new Model(entry.state), drawable: entry.model_module === "anywidget" });
      }
    }
    return models;
  }

  async function draw() {
    const models = saved(), modules = new Map(), styles = new Set();
    for (const view of scripts("view")) {
      const entry = models.get(JSON.parse(view.textContent).model_id);
      const element = document.createElement("div");
      view.before(element);
      if (!entry?.drawable) { note(element, "This control needs a running notebook."); continue; }
      const { _esm: code, _css: style } = entry.model.state;
      if (style && !styles.has(style)) {
        styles.add(style);
        document.head.append(Object.assign(document.createElement("style"), { textContent: style }));
      }
      try {
        if (!modules.has(code)) modules.set(code, import(URL.createObjectURL(new Blob([code], { type: "text/javascript" }))));
        const module = await modules.get(code);
        await module.default.render({ model: entry.model, el: element });
      } catch (error) {
        console.error(error);
        note(element, `This widget could not start: ${error.message}`);
      }
    }
  }

  if (document.readyState === "loading") addEventListener("DOMContentLoaded", draw); else draw();
})();
