"use strict";
// A panel of lines over steps, drawn by uPlot, with the time cursor above it in a canvas of its own: moving the cursor draws no
// line anew. Mouse, touch and keys move the cursor and choose steps.

const tip = document.getElementById("tip");
let hovered = null; // {panel, x, y}: the panel under the pointer, and where in the window
// A panel is built when it comes near the window, and follows the cursor while it is in it.
const near = new IntersectionObserver((entries) => tellPanels(entries, "near"), { rootMargin: "400px 0px" });
const inside = new IntersectionObserver((entries) => tellPanels(entries, "inside"));
function tellPanels(entries, what) {
  for (const { target, isIntersecting } of entries) target.panel[what] = isIntersecting;
  refresh(CURSOR);
}
const resized = new ResizeObserver((entries) => {
  for (const entry of entries) entry.target.panel.resize();
});

const style = () => getComputedStyle(document.documentElement);
let colours = {};
function readColours() {
  const found = style();
  for (const name of ["ink", "muted", "line", "background", "accent", "c0", "c1", "c2", "c3", "c4", "c5"])
    colours[name] = found.getPropertyValue(`--${name}`).trim();
}
const colourOf = (run) => colours[`c${run.colour}`];
const DASHES = [[], [7, 3], [2, 2], [7, 3, 2, 3], [12, 3], [1, 4]];
const dashOf = (run) => DASHES[run.dash % DASHES.length];

class Panel {
  // `figure` is one of the catalogue; `height` in CSS pixels; `marks` says which value a mark of fit and onset sits on.
  constructor(host, figure, site, height = 190) {
    Object.assign(this, { host, figure, site, height });
    this.near = this.inside = false;
    this.stale = true;
    this.log = null; // the reader's choice for this figure alone
    this.plot = null;
    this.points = []; // what the cursor shows: {run, text, x, y}
    host.panel = this;
    host.tabIndex = 0;
    host.setAttribute("role", "img");
    host.style.setProperty("--height", `${height}px`);
    near.observe(host);
    inside.observe(host);
    resized.observe(host);
    host.addEventListener("keydown", (event) => this.key(event));
    views.push(this);
  }

  resize() {
    if (this.plot && this.host.clientWidth && this.host.clientWidth !== this.plot.width) {
      this.stale = true;
      refresh(CURSOR);
    }
  }

  update(level) {
    if (level === ALL) this.stale = true;
    if (!this.near) return;
    if (this.stale && this.host.clientWidth) {
      this.build();
      this.stale = false;
      queueMicrotask(() => this.paint()); // uPlot gives itself a size in a microtask of its own, which comes first
    } else if (this.inside && this.plot) this.paint();
  }

  remove() {
    near.unobserve(this.host);
    inside.unobserve(this.host);
    resized.unobserve(this.host);
    this.plot?.destroy();
  }

  // Lines ----------------------------------------------------------------------------------------------------------

  lines() {
    const found = [];
    for (const i of shown()) {
      const run = page.runs[i];
      this.figure.lines.forEach((line, which) => {
        const data = lineOf(run, line.sources, this.site);
        if (data) found.push({ run: i, text: line.text, x: data.x, raw: data.y, y: smoothed(data.y), which });
      });
    }
    return found;
  }

  // The lower and the upper edge of the band of the run in focus, or nothing.
  band() {
    if (choice.off.has(choice.focus)) return [];
    const edges = (this.figure.band ?? []).map((source) => focused().lines[source]?.[this.site]);
    return edges.length === 2 && edges.every((edge) => edge?.x.length) ? edges : [];
  }

  // The dashed lines. Those that are the same constant in several runs are one.
  targets() {
    const found = new Map();
    for (const i of shown()) {
      const target = page.runs[i].lines[this.figure.dashed]?.[this.site];
      if (!target?.x.length) continue;
      const key = target.y.every((value) => value === target.y[0]) ? String(target.y[0]) : `run ${i}`;
      const old = found.get(key);
      if (!old || old.x[old.x.length - 1] < target.x[target.x.length - 1]) found.set(key, target);
    }
    return [...found.values()];
  }

  isLog(lines) {
    if (this.figure.bounded) return false;
    let low = Infinity, high = -Infinity, all = true;
    for (const { y } of lines)
      for (const value of y)
        if (value !== null) {
          if (value <= 0) all = false;
          else {
            if (value < low) low = value;
            if (value > high) high = value;
          }
        }
    this.canLog = high > -Infinity;
    if (this.log !== null) return this.log && this.canLog;
    if (choice.values) return choice.values === "log" && this.canLog;
    return all && (this.figure.log || high > 30 * low) && high > 1.001 * low;
  }

  build() {
    this.plot?.destroy();
    const lines = this.lines();
    const log = (this.logarithmic = this.isLog(lines));
    const clean = (y) => (log ? y.map((value) => (value > 0 ? value : null)) : y);
    const tables = [], series = [{}];
    const add = (x, y, options) => {
      if (!x.length) return;
      tables.push([x, clean(y)]);
      series.push({ points: { show: x.length === 1 ? true : undefined, size: 4 }, ...options });
    };
    if (choice.smooth)
      for (const line of lines) add(line.x, line.raw, { stroke: faint(colourOf(page.runs[line.run]), 0.25), width: 1 });
    this.points = [];
    for (const line of lines) {
      const run = page.runs[line.run], colour = colourOf(run), thin = line.which > 0;
      add(line.x, line.y, {
        stroke: thin ? faint(colour, 0.75) : colour,
        width: thin ? 1 : line.run === choice.focus && page.runs.length > 1 ? 2.25 : 1.6,
        dash: line.which > 1 ? [2, 3] : dashOf(run),
      });
      this.points.push({ ...line, y: clean(line.y) });
    }
    for (const { x, y } of this.targets()) add(x, y, { stroke: faint(colours.ink, 0.55), width: 1, dash: [4, 4] });
    const data = tables.length ? uPlot.join(tables) : [[0, 1]];
    this.make(data, series, log, this.scales(log));
    this.describe();
  }

  scales(log) {
    const bounded = this.figure.bounded, compare = this.figure.compare;
    return {
      y: {
        distr: log ? 3 : 1,
        range: (_, low, high) => {
          if (low === null || high === null) return log ? [1, 10] : [0, 1];
          for (const { y } of this.band())
            for (const value of y)
              if (value !== null && !(log && value <= 0)) {
                if (value < low) low = value;
                if (value > high) high = value;
              }
          if (compare && !(log && compare[0] <= 0)) {
            low = Math.min(low, compare[0]);
            high = Math.max(high, compare[0]);
          }
          if (log) return [low / 1.15, high * 1.15];
          if (bounded && low >= 0 && high <= 1.0001) return [-0.03, 1.03];
          const margin = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
          return [low >= 0 && low < 0.3 * high ? Math.min(0, low) : low - margin, high + margin];
        },
      },
    };
  }

  make(data, series, log, scales, xScale = timeScale(), xAxis = timeAxis(this.host.clientWidth)) {
    const axis = { stroke: colours.muted, font: "11px system-ui, sans-serif", grid: { stroke: colours.line, width: 1 } };
    const ticks = { stroke: colours.line, width: 1, size: 4 };
    const y = { ...axis, ticks: { show: false }, grid: { ...axis.grid, show: this.figure.kind !== "heat" }, size: 46, gap: 4, values: (_, splits) => splits.map(compact) };
    if (log)
      Object.assign(y, {
        splits: (_, __, low, high) => roundNumbers(low, high, 5),
        filter: (_, splits) => splits,
      });
    this.plot = new uPlot(
      {
        width: this.host.clientWidth,
        height: this.height,
        padding: [8, 10, 0, 0],
        cursor: { show: false },
        legend: { show: false },
        scales: { x: xScale, ...scales },
        axes: [{ ...axis, grid: { show: false }, ticks, size: 26, gap: 2, ...xAxis }, y],
        series,
        hooks: { drawAxes: [(plot) => this.behind(plot)], draw: [(plot) => this.above(plot)] },
      },
      data,
      this.host,
    );
    this.ink = document.createElement("canvas");
    this.ink.className = "ink";
    this.plot.over.append(this.ink);
    this.listen(this.plot.over);
  }

  // The band of the run in focus, and the height to compare with.
  behind(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    const [lower, upper] = this.band();
    if (upper) {
      const edge = ({ x, y }) => x.map((step, i) => [step, y[i]]).filter(([, value]) => value !== null && !(this.logarithmic && value <= 0));
      ctx.fillStyle = faint(colourOf(focused()), 0.14);
      ctx.beginPath();
      for (const [step, value] of [...edge(lower), ...edge(upper).reverse()])
        ctx.lineTo(plot.valToPos(step, "x", true), plot.valToPos(value, "y", true));
      ctx.fill();
    }
    const compare = this.figure.compare;
    if (compare && !(this.logarithmic && compare[0] <= 0)) {
      const at = plot.valToPos(compare[0], "y", true);
      ctx.strokeStyle = faint(colours.ink, 0.45);
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, at);
      ctx.lineTo(bbox.left + bbox.width, at);
      ctx.stroke();
    }
    ctx.restore();
  }

  // Marks of the fit and the onset, on the lines themselves.
  above(plot) {
    if (!this.figure.marks) return;
    const { ctx } = plot, scale = devicePixelRatio, [from, to] = stepRange();
    for (const point of this.points) {
      const { fit, onset } = page.runs[point.run].answer;
      const wanted = this.figure.marks === "accuracy" ? (point.which === 1 ? [fit, null] : [null, onset]) : [fit, onset];
      wanted.forEach((step, kind) => {
        if (step === null || step < from || step > to) return;
        const x = plot.valToPos(step, "x", true), y = heightAt(plot, point, step, x);
        if (y === null) return;
        ctx.save();
        ctx.fillStyle = kind ? colourOf(page.runs[point.run]) : colours.background;
        ctx.strokeStyle = kind ? colours.background : colourOf(page.runs[point.run]);
        ctx.lineWidth = 1.5 * scale;
        ctx.setLineDash([]);
        ctx.beginPath();
        if (kind) {
          ctx.moveTo(x, y - 6 * scale);
          ctx.lineTo(x + 5.5 * scale, y + 4 * scale);
          ctx.lineTo(x - 5.5 * scale, y + 4 * scale);
          ctx.closePath();
        } else ctx.arc(x, y, 3.5 * scale, 0, 7);
        ctx.fill();
        ctx.stroke();
        ctx.restore();
      });
    }
  }

  // The time cursor ------------------------------------------------------------------------------------------------

  paint() {
    const width = this.plot.over.clientWidth, height = this.plot.over.clientHeight, scale = devicePixelRatio;
    if (this.ink.width !== Math.round(width * scale) || this.ink.height !== Math.round(height * scale)) {
      this.ink.width = Math.round(width * scale);
      this.ink.height = Math.round(height * scale);
    }
    const pen = this.ink.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    this.cursor(pen, width, height);
  }

  cursor(pen, width, height) {
    const left = this.plot.valToPos(choice.step, "x"), told = [];
    if (left < -1 || left > width + 1) return this.tell([]);
    pen.fillStyle = faint(colours.ink, 0.5);
    pen.fillRect(Math.round(left), 0, 1, height);
    for (const point of this.points) {
      const at = measuredAt(point.x, choice.step);
      if (at < 0) continue;
      const value = point.y[at];
      const top = value === null ? null : this.plot.valToPos(value, "y");
      told.push({ ...point, value, top, step: point.x[at] });
      if (top === null) continue;
      pen.fillStyle = colourOf(page.runs[point.run]);
      pen.beginPath();
      pen.arc(this.plot.valToPos(point.x[at], "x"), top, point.which ? 2 : 3, 0, 7);
      pen.fill();
    }
    this.told = told;
    if (hovered?.panel === this) this.tell(told);
  }

  // Values beside the pointer: those nearest to it where there are many.
  tell(told) {
    if (hovered?.panel !== this) return;
    const box = this.plot.over.getBoundingClientRect(), height = hovered.y - box.top;
    const far = (one) => (one.top === null ? Infinity : Math.abs(one.top - height));
    const close = [...told].sort((a, b) => far(a) - far(b)).slice(0, 9);
    const first = close[0];
    close.sort((a, b) => (b.value ?? -Infinity) - (a.value ?? -Infinity));
    const rows = close.map((one) => {
      const run = page.runs[one.run], text = page.runs.length > 1 ? run.label + (one.text ? `, ${one.text}` : "") : one.text || this.figure.title;
      return [run.colour, text, (one.value === null ? "no number" : compact(one.value)) + (one.step === choice.step ? "" : ` at ${whole(one.step)}`), one === first];
    });
    showTip(`step ${whole(choice.step)}`, rows, told.length - close.length);
    this.nearRun = first?.run;
  }

  // Mouse, touch and keys ------------------------------------------------------------------------------------------

  listen(over) {
    const fingers = new Map();
    let from = null, pinch = null, mark = null, moved = false;
    const at = (event) => event.clientX - over.getBoundingClientRect().left;
    const stepAt = (left) => this.plot.posToVal(Math.min(Math.max(left, 0), over.clientWidth), "x");
    const hover = (event) => {
      hovered = { panel: this, x: event.clientX, y: event.clientY };
      this.point(stepAt(at(event)));
    };
    const stop = () => {
      mark?.remove();
      mark = from = pinch = null;
    };
    over.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      fingers.set(event.pointerId, at(event));
      moved = false;
      if (event.pointerType === "mouse") {
        over.setPointerCapture(event.pointerId);
        from = at(event);
      } else if (fingers.size === 2) pinch = [...fingers.values()].sort((a, b) => a - b).map(stepAt);
      else hover(event);
    });
    over.addEventListener("pointermove", (event) => {
      if (fingers.has(event.pointerId)) fingers.set(event.pointerId, at(event));
      if (pinch && fingers.size === 2) {
        this.pinch(pinch, [...fingers.values()].sort((a, b) => a - b), over.clientWidth);
        return;
      }
      if (from !== null && this.timed && Math.abs(at(event) - from) > 4) {
        moved = true;
        if (!mark) {
          mark = document.createElement("div");
          mark.className = "chosen";
          over.append(mark);
        }
        const left = Math.max(Math.min(from, at(event)), 0), right = Math.min(Math.max(from, at(event)), over.clientWidth);
        mark.style.left = `${left}px`;
        mark.style.width = `${right - left}px`;
      }
      hover(event);
    });
    over.addEventListener("pointerup", (event) => {
      fingers.delete(event.pointerId);
      if (from !== null && moved) {
        const ends = [from, at(event)].sort((a, b) => a - b).map(stepAt);
        stop();
        setRange(ends);
      } else if (from !== null && event.pointerType === "mouse" && this.nearRun !== undefined && page.runs.length > 1) setFocus(this.nearRun);
      stop();
    });
    for (const name of ["pointercancel", "pointerleave"])
      over.addEventListener(name, (event) => {
        fingers.delete(event.pointerId);
        if (name === "pointerleave" && over.hasPointerCapture?.(event.pointerId)) return;
        stop();
        hovered = null;
        tip.hidden = true;
      });
    over.addEventListener("dblclick", () => setRange(null));
    over.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey || !this.timed) return; // a pinch on a trackpad; the wheel alone scrolls the page
        event.preventDefault();
        this.zoom(Math.exp(event.deltaY / 100), at(event) / over.clientWidth);
      },
      { passive: false },
    );
  }

  get timed() {
    return true;
  }

  point(step) {
    setStep(step);
  }

  // Choose steps so that those under two fingers stay under them.
  pinch(steps, [left, right], width) {
    if (!this.timed || right - left < 8) return;
    const { to, back } = stretch(), [a, b] = steps.map(to);
    const unit = (b - a) / (right - left);
    if (unit > 0) setRange([back(a - left * unit), back(a + (width - left) * unit)]);
  }

  // Show `factor` times as much, and keep what is at a fraction of the width where it is.
  zoom(factor, fraction) {
    const { to, back } = stretch(), [a, b] = stepRange().map(to), fixed = a + (b - a) * fraction;
    setRange([back(fixed - (fixed - a) * factor), back(fixed + (b - fixed) * factor)]);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 10 : 1, width = this.plot?.over.clientWidth || 1;
    const fraction = this.plot && this.timed ? Math.min(Math.max(this.plot.valToPos(choice.step, "x") / width, 0), 1) : 0.5;
    const keys = {
      ArrowLeft: () => moveStep(-far),
      ArrowRight: () => moveStep(far),
      Home: () => moveStep(-Infinity),
      End: () => moveStep(Infinity),
      "+": () => this.zoom(0.7, fraction),
      "=": () => this.zoom(0.7, fraction),
      "-": () => this.zoom(1 / 0.7, fraction),
      0: () => setRange(null),
      Escape: () => setRange(null),
    };
    if (!keys[event.key]) return;
    keys[event.key]();
    event.preventDefault();
  }

  describe() {
    const ends = this.points.slice(0, 6).map(({ run, text, x, y }) => `${page.runs[run].label}${text ? ` ${text}` : ""}: ${compact(y[y.length - 1]) || "no number"} at step ${whole(x[x.length - 1])}`);
    this.host.setAttribute("aria-label", `${this.figure.title}${this.site ? `, ${siteName(this.site)}` : ""}. ${ends.join("; ")}. Arrow keys move the time cursor, plus and minus enlarge.`);
  }
}

// The height of a line as drawn at a step between its points, in pixels of the canvas; null where it has a gap or has ended.
function heightAt(plot, { x, y }, step, left) {
  const next = before(x, step);
  if (x[next] === step) return y[next] === null ? null : plot.valToPos(y[next], "y", true);
  if (next === 0 || next === x.length || y[next - 1] === null || y[next] === null) return null;
  const [a, b] = [x[next - 1], x[next]].map((at) => plot.valToPos(at, "x", true));
  const [low, high] = [y[next - 1], y[next]].map((at) => plot.valToPos(at, "y", true));
  return low + ((high - low) * (left - a)) / (b - a);
}

// From steps to the length on the axis of steps, and back.
function stretch() {
  if (choice.axis !== "log") return { to: (step) => step, back: (length) => length };
  const first = firstStep();
  return { to: (step) => Math.asinh(step / first), back: (length) => Math.sinh(length) * first };
}

function timeScale() {
  const range = () => stepRange();
  return choice.axis === "log" ? { time: false, distr: 4, asinh: firstStep(), range } : { time: false, range };
}

function timeAxis(width) {
  const axis = { values: (_, splits) => splits.map(compact) };
  if (choice.axis === "log")
    Object.assign(axis, {
      splits: (_, __, low, high) => {
        const zero = low <= 0, first = Math.max(low, firstStep());
        if (high < 20 * first && !zero) return evenNumbers(low, high, width / 80);
        return [...(zero ? [0] : []), ...roundNumbers(first, high, Math.max(2, width / 70 - (zero ? 1 : 0)))];
      },
      filter: (_, splits) => splits,
    });
  return axis;
}

function evenNumbers(low, high, most) {
  const rough = (high - low) / Math.max(most, 2), power = 10 ** Math.floor(Math.log10(rough));
  const by = [1, 2, 5, 10].map((digit) => digit * power).find((step) => step >= rough);
  const found = [];
  for (let value = Math.ceil(low / by) * by; value <= high; value += by) found.push(value);
  return found;
}

// A colour of six digits, so that it lets through what is behind it.
function faint(colour, alpha) {
  return colour + Math.round(alpha * 255).toString(16).padStart(2, "0");
}

// Rows of [colour, text, value, whether it is the nearest]; the elements are kept from one frame to the next.
const tipRows = [];
function showTip(title, rows, more = 0) {
  while (tipRows.length < rows.length + 2) {
    const row = document.createElement("div"), name = document.createElement("span"), swatch = document.createElement("i");
    const text = document.createTextNode(""), value = document.createElement("b");
    name.append(swatch, text);
    row.append(name, value);
    tip.append(row);
    tipRows.push({ row, swatch, text, value });
  }
  const all = [[-1, title, "", false], ...rows, ...(more > 0 ? [[-1, `and ${more} more`, "", false]] : [])];
  tipRows.forEach(({ row, swatch, text, value }, i) => {
    row.hidden = i >= all.length;
    row.style.display = i >= all.length ? "none" : "";
    if (i >= all.length) return;
    const [colour, label, number, near] = all[i];
    swatch.className = colour < 0 ? "" : `swatch c${colour}`;
    if (text.data !== label) text.data = label;
    if (value.textContent !== number) value.textContent = number;
    row.className = near ? "near" : "";
  });
  tip.hidden = false;
  const right = hovered.x > innerWidth / 2, low = hovered.y > innerHeight * 0.6;
  tip.style.transform = `translate(${hovered.x + (right ? -14 : 14)}px, ${hovered.y + (low ? -14 : 14)}px) translate(${right ? -100 : 0}%, ${low ? -100 : 0}%)`;
}
