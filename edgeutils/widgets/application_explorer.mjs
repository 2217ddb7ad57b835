// Phone and network pickers with a bar per processor. One module, no imports: it runs from a Blob in the
// static page and under anywidget in Jupyter. Named exports are for the tests; hosts ignore them.

export function cells(rows, device, network) {
  return rows.filter((row) => row.device === device && row.name === network);
}

// Where this phone stands among all phones with the same network and processor: 1 is the least energy.
export function rank(rows, row) {
  const peers = rows.filter((r) => r.name === row.name && r.processor === row.processor && r.energy_j !== null);
  return { place: 1 + peers.filter((r) => r.energy_j < row.energy_j).length, of: peers.length };
}

export function joules(value) {
  if (value === null) return "not published";
  return value >= 1 ? `${value.toPrecision(3)} J` : `${(1000 * value).toPrecision(3)} mJ`;
}

export function sentence(rows, device, network) {
  const known = cells(rows, device, network).filter((row) => row.energy_j !== null);
  if (!known.length) return `${device}: nothing published for ${network}.`;
  known.sort((a, b) => a.energy_j - b.energy_j);
  const best = known[0], worst = known[known.length - 1];
  const factor = worst.energy_j / best.energy_j;
  const compared = factor < 1.05 ? `about as much as on ${worst.processor}` : `on ${worst.processor} it takes ${factor.toPrecision(2)} times as much`;
  const tail = known.length > 1 ? `; ${compared}` : "";
  return `${device} runs ${network} with the least energy on ${best.processor}: ${joules(best.energy_j)} per inference${tail}.`;
}

function picker(label, values, model, key, text) {
  const field = document.createElement("label");
  const select = document.createElement("select");
  select.setAttribute("data-lm-suppress-shortcuts", "true");
  for (const value of values) select.append(new Option(text(value), value));
  select.value = model.get(key);
  select.addEventListener("change", () => { model.set(key, select.value); model.save_changes(); });
  model.on(`change:${key}`, () => { select.value = model.get(key); });
  field.append(label, select);
  return field;
}

function bar(row, longest, rows) {
  const line = document.createElement("tr");
  const place = row.energy_j === null ? null : rank(rows, row);
  const width = row.energy_j === null ? 0 : (100 * row.energy_j) / longest;
  const texts = [joules(row.energy_j), row.power_w === null ? "–" : `${row.power_w.toFixed(2)} W`, place ? `${place.place} of ${place.of}` : "–"];
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = row.processor;
  line.append(head);
  const shown = document.createElement("td");
  shown.className = "edge-bar";
  const fill = document.createElement("span");
  fill.style.width = `${width}%`;
  shown.append(fill);
  line.append(shown);
  for (const text of texts) {
    const cell = document.createElement("td");
    cell.textContent = text;
    line.append(cell);
  }
  return line;
}

function render({ model, el }) {
  const rows = model.get("rows");
  const unique = (key) => [...new Set(rows.map((row) => row[key]))];
  const task = new Map(rows.map((row) => [row.name, row.task]));
  const root = document.createElement("div");
  root.className = "edge-widget";
  const controls = document.createElement("div");
  controls.className = "edge-controls";
  controls.append(
    picker("Phone ", unique("device"), model, "device", (value) => value),
    picker("Network ", unique("name"), model, "network", (value) => (task.get(value) ? `${value}: ${task.get(value)}` : value)),
  );
  const said = document.createElement("p");
  const live = document.createElement("p");
  live.className = "edge-live";
  live.setAttribute("aria-live", "polite");
  const table = document.createElement("table");
  root.append(controls, said, table, live);
  el.append(root);
  let timer;
  const draw = () => {
    const [device, network] = [model.get("device"), model.get("network")];
    const shown = cells(rows, device, network);
    const longest = Math.max(...shown.map((row) => row.energy_j ?? 0));
    table.replaceChildren();
    const caption = table.createCaption();
    caption.textContent = `Energy and mean power of one inference (${model.get("source")} values; place among the phones, 1 = least energy)`;
    const header = table.createTHead().insertRow();
    for (const text of ["Processor", "Energy", "", "Power", "Place"]) {
      const cell = document.createElement(text ? "th" : "td");
      if (text) cell.scope = "col";
      cell.textContent = text;
      header.append(cell);
    }
    table.createTBody().append(...shown.map((row) => bar(row, longest, rows)));
    said.textContent = sentence(rows, device, network);
    clearTimeout(timer);
    timer = setTimeout(() => { live.textContent = said.textContent; }, 600);
  };
  model.on("change:device", draw);
  model.on("change:network", draw);
  draw();
}

export default { render };
