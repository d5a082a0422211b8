"use strict";

// Players: all signals of a case run at once, sample by sample, and a gain says which of them is heard.
let context = null;
let playing = null;
const FADE_S = 0.01;

class Player {
  constructor(root) {
    this.root = root;
    this.figures = [...root.querySelectorAll("figure[data-sound]")];
    this.seconds = Number(root.dataset.seconds);
    this.offset = 0;
    this.heard = 0;
    this.sources = [];
    this.button = root.querySelector(".play");
    this.seek = root.querySelector(".seek");
    this.clock = root.querySelector(".clock");
    this.button.addEventListener("click", () => this.toggle());
    this.seek.addEventListener("input", () => this.goTo(Number(this.seek.value)));
    this.figures.forEach((figure, number) => {
      figure.querySelector(".switch").addEventListener("click", () => this.hear(number));
      const picture = figure.querySelector(".picture");
      if (picture) picture.addEventListener("click", (event) => {
        const box = picture.getBoundingClientRect();
        this.hear(number);
        this.goTo((event.clientX - box.left) / box.width * this.seconds);
      });
    });
    this.hear(Math.max(0, this.figures.findIndex((figure) => figure.dataset.first !== undefined)));
    this.show();
  }

  get position() {
    return this.sources.length ? Math.min(this.offset + Math.max(0, context.currentTime - this.began), this.seconds) : this.offset;
  }

  async toggle() {
    if (this.sources.length) this.stop(); else await this.start();
  }

  async start() {
    if (playing && playing !== this) playing.stop();
    context = context || new AudioContext();
    await context.resume();
    try {
      this.buffers = this.buffers || await Promise.all(this.figures.map((figure) => decode(figure.dataset.sound)));
    } catch (error) {
      this.clock.textContent = `This browser cannot play the sound: ${error.message}`;
      this.clock.classList.add("error");
      return;
    }
    if (this.offset >= this.seconds - 0.05) this.offset = 0;
    this.stop();
    playing = this;
    this.began = context.currentTime + 0.03;
    this.sources = this.buffers.map((buffer, number) => {
      const gain = new GainNode(context, { gain: number === this.heard ? 1 : 0 });
      const source = new AudioBufferSourceNode(context, { buffer });
      source.connect(gain).connect(context.destination);
      source.start(this.began, this.offset);
      return { source, gain };
    });
    this.button.textContent = "\u275A\u275A Pause";
    this.tick();
  }

  stop() {
    this.offset = this.position;
    this.sources.forEach(({ source }) => source.stop());
    this.sources = [];
    if (playing === this) playing = null;
    this.button.textContent = "\u25B6 Play";
    this.show();
  }

  hear(number) {
    this.heard = number;
    this.figures.forEach((figure, other) => figure.classList.toggle("heard", other === number));
    this.sources.forEach(({ gain }, other) => gain.gain.setTargetAtTime(other === number ? 1 : 0, context.currentTime, FADE_S / 3));
  }

  goTo(seconds) {
    const resumed = this.sources.length > 0;
    if (resumed) this.stop();
    this.offset = Math.min(Math.max(0, seconds), this.seconds);
    if (resumed) this.start(); else this.show();
  }

  show() {
    const now = this.position;
    this.seek.value = now;
    if (!this.clock.classList.contains("error")) this.clock.textContent = `${now.toFixed(1)} / ${this.seconds.toFixed(1)} s`;
    this.root.querySelectorAll(".head").forEach((head) => { head.style.left = `${100 * now / this.seconds}%`; });
  }

  tick() {
    if (!this.sources.length) return;
    if (this.position >= this.seconds) { this.stop(); return; }
    this.show();
    requestAnimationFrame(() => this.tick());
  }
}

async function decode(address) {
  const text = atob(address.slice(address.indexOf(",") + 1));
  return context.decodeAudioData(Uint8Array.from(text, (letter) => letter.charCodeAt(0)).buffer);
}

const players = [...document.querySelectorAll(".case")].map((root) => new Player(root));

// Space plays and pauses, and digits switch, in the case that plays or was used last.
let last = players[0];
players.forEach((player) => player.root.addEventListener("click", () => { last = player; }));
document.addEventListener("keydown", (event) => {
  if (!last || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|BUTTON)$/.test(event.target.tagName)) return;
  const digit = Number(event.key);
  if (event.key === " ") { event.preventDefault(); last.toggle(); }
  else if (digit >= 1 && digit <= last.figures.length) last.hear(digit - 1);
});

// Tables: a click on a heading sorts by it, a second one the other way. Numbers sort as numbers, and gaps come last.
function sortBy(table, column, descending) {
  const key = (row) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace("\u2212", "-"));
    return Number.isNaN(number) ? (text === "-" || text === "" ? null : text) : number;
  };
  const keyed = [...table.tBodies[0].rows].map((row) => [key(row), row]);
  const numeric = keyed.every(([value]) => value === null || typeof value === "number");
  const order = (a, b) => numeric ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  keyed.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : (descending ? order(b, a) : order(a, b)));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
  [...table.tHead.rows[0].cells].forEach((cell, other) => {
    if (other === column) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}

document.addEventListener("click", (event) => {
  const heading = event.target.closest(".sortable thead th");
  if (heading) sortBy(heading.closest("table"), heading.cellIndex, heading.getAttribute("aria-sort") === "ascending");
});

// The table of files: one score at a time, all systems side by side.
const files = document.getElementById("files-data");
if (files) {
  const { columns, rows, systems, scores, digits, ranked } = JSON.parse(files.textContent);
  const table = document.getElementById("files"), choice = document.getElementById("score");
  const gain = systems.length > 1 && systems[0] === "noisy";
  const headings = [...columns, ...systems, ...(gain ? systems.slice(1).map((name) => `gain of ${name}`) : [])];
  const head = table.createTHead().insertRow();
  headings.forEach((name, number) => {
    const cell = document.createElement("th");
    cell.textContent = name;
    if (number < columns.length && name !== "SNR [dB]") cell.className = "text";
    head.append(cell);
  });
  const body = table.createTBody();
  const fill = () => {
    const places = digits[choice.value];
    const number = (value, sign) => value === null ? "-" : (sign && value >= 0 ? "+" : "") + value.toFixed(places);
    body.replaceChildren(...rows.map(({ known, anchor }, place) => {
      const row = document.createElement("tr");
      known.forEach((value, column) => {
        const cell = row.insertCell();
        if (column === 0 && anchor) {
          const link = document.createElement("a");
          link.href = `#${anchor}`;
          link.textContent = value;
          cell.append(link);
        } else cell.textContent = value === null ? "" : value;
        if (columns[column] !== "SNR [dB]") cell.className = "text";
      });
      const values = scores[choice.value].map((system) => system[place]);
      const gains = gain ? values.slice(1).map((value) => value === null || values[0] === null ? null : value - values[0]) : [];
      values.forEach((value) => { row.insertCell().textContent = number(value, false); });
      gains.forEach((value) => { row.insertCell().textContent = number(value, true); });
      return row;
    }));
    const sorted = [...head.cells].findIndex((cell) => cell.hasAttribute("aria-sort"));
    if (sorted >= 0) sortBy(table, sorted, head.cells[sorted].getAttribute("aria-sort") === "descending");
  };
  choice.addEventListener("change", fill);
  fill();
  sortBy(table, headings.lastIndexOf(gain ? `gain of ${ranked}` : ranked), false);
}
