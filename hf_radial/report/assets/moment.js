"use strict";
// Panels of numbers with an index: a map over time, and what they are at the time cursor.

// The places of values from low to high.
const ordered = (values) => values.map((_, i) => i).sort((a, b) => values[a] - values[b]);

// Index by step, of the run in focus: a cell is the stronger coloured, the larger its share.
class HeatPanel extends Panel {
  cells() {
    return focused().cells[this.figure.lines[0].sources[0]]?.[this.site];
  }

  build() {
    this.plot?.destroy();
    this.points = [];
    const cells = this.cells();
    const index = cells?.index ?? [0, 1], first = index[0], last = index[index.length - 1];
    this.top = 6 / index.length; // at least six times an even share, so that an even field is pale
    for (const row of cells?.rows ?? []) for (const value of row) if (value > this.top) this.top = value;
    const scales = { y: { range: () => [first - 0.5, last + 0.5] } };
    this.make([[0, 1], [null, null]], [{}, { show: true, points: { show: false } }], false, scales);
    const strongest = cells ? ordered(cells.rows[cells.rows.length - 1]).slice(-5).map((i) => index[i]).sort((a, b) => a - b) : [];
    this.host.setAttribute("aria-label", `${this.figure.title}, ${siteName(this.site)}, of ${focused().label}. Strongest at the end: ${strongest.join(", ")}.`);
  }

  behind(plot) {
    const cells = this.cells();
    if (!cells) return;
    const { ctx, bbox } = plot, x = cells.x, index = cells.index;
    const between = (list, i) => (i <= 0 ? list[0] - (list.length > 1 ? (list[1] - list[0]) / 2 : 0.5) : i >= list.length ? list[i - 1] + (list.length > 1 ? (list[i - 1] - list[i - 2]) / 2 : 0.5) : (list[i - 1] + list[i]) / 2);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.fillStyle = colourOf(focused());
    const pixel = (value, scale) => Math.round(plot.valToPos(value, scale, true)); // cells that overlap would show seams
    const tops = index.map((_, i) => pixel(between(index, i + 1), "y"));
    const bottom = pixel(between(index, 0), "y");
    let right = pixel(Math.max(between(x, 0), 0), "x");
    for (let i = 0; i < x.length; i++) {
      const left = right;
      right = pixel(between(x, i + 1), "x");
      if (right < bbox.left || left > bbox.left + bbox.width) continue;
      for (let k = 0; k < index.length; k++) {
        const share = cells.rows[i][k] / this.top;
        if (!(share > 0.02)) continue;
        ctx.globalAlpha = share;
        ctx.fillRect(left, tops[k], right - left, (k ? tops[k - 1] : bottom) - tops[k]);
      }
    }
    ctx.restore();
  }

  cursor(pen, width, height) {
    super.cursor(pen, width, height);
    const cells = this.cells();
    if (hovered?.panel !== this || !cells) return;
    const at = nearest(cells.x, choice.step), box = this.plot.over.getBoundingClientRect();
    const k = nearest(cells.index, this.plot.posToVal(hovered.y - box.top, "y"));
    if (k >= 0) showTip(`step ${whole(cells.x[at])}`, [[focused().colour, `frequency ${cells.index[k]}`, `${compact(100 * cells.rows[at][k])} %`, true]]);
  }

  tell() {}
}

// What is at the time cursor: drawn anew only where the cursor comes to another measurement.
class MomentPanel extends Panel {
  get timed() {
    return false;
  }

  point() {
    refresh(CURSOR); // the pointer is over an index here, not over steps
  }

  runs() {
    return this.figure.kind === "spectrum" ? shown() : [choice.focus];
  }

  found() {
    const metric = this.figure.lines[0].sources[0];
    return this.runs()
      .map((run) => ({ run, cells: page.runs[run].cells[metric]?.[this.site] }))
      .filter(({ cells }) => cells)
      .map(({ run, cells }) => ({ run, cells, at: measuredAt(cells.x, choice.step) }));
  }

  build() {
    this.plot?.destroy();
    this.points = [];
    this.shows = "";
    const found = this.found(), log = (this.logarithmic = this.isLog(found.map(({ cells }) => ({ y: cells.rows.flat() }))));
    let low = Infinity, high = -Infinity;
    for (const { cells } of found)
      for (const row of cells.rows)
        for (const value of row)
          if (value !== null && (!log || value > 0)) {
            if (value < low) low = value;
            if (value > high) high = value;
          }
    const range = high === -Infinity ? [0, 1] : log ? [low / 1.15, high * 1.15] : [Math.min(low, 0), high * 1.06 || 1];
    this.make(
      this.data(found),
      [{}, ...found.map(({ run }) => this.series(run, found))],
      log,
      { y: { distr: log ? 3 : 1, range: () => range } },
      { time: false, range: (_, from, to) => this.span(from, to) },
      { values: (_, splits) => splits.map((value) => (Number.isInteger(value) ? String(value) : "")) },
    );
    this.plot.over.style.cursor = "default";
    this.describe();
  }

  series(run) {
    const colour = colourOf(page.runs[run]);
    if (this.figure.kind === "bars")
      return { stroke: colour, fill: colour, width: 0, paths: uPlot.paths.bars({ size: [0.75, 24] }), points: { show: false } };
    return { stroke: colour, width: 1.6, dash: dashOf(page.runs[run]), points: { show: true, size: 4, fill: colour } };
  }

  span(from, to) {
    return [from - 0.7, to + 0.7];
  }

  data(found) {
    const index = [...new Set(found.flatMap(({ cells }) => cells.index))].sort((a, b) => a - b);
    if (!index.length) return [[0, 1]];
    return [
      index,
      ...found.map(({ cells, at }) => {
        if (at < 0) return index.map(() => null);
        const row = new Map(cells.index.map((k, i) => [k, cells.rows[at][i]]));
        return index.map((k) => (this.logarithmic && !(row.get(k) > 0) ? null : (row.get(k) ?? null)));
      }),
    ];
  }

  paint() {
    const found = this.found(), shows = found.map(({ at }) => at).join();
    if (shows !== this.shows) {
      this.shows = shows;
      this.plot.setData(this.data(found));
      const steps = [...new Set(found.filter(({ at }) => at >= 0).map(({ cells, at }) => cells.x[at]))];
      const text = steps.length === 0 ? "not measured then" : steps.length === 1 ? `at step ${whole(steps[0])}` : `near step ${whole(choice.step)}`;
      if (this.note) this.note.textContent = text;
    }
    super.paint();
  }

  cursor() {
    if (hovered?.panel !== this) return;
    const box = this.plot.over.getBoundingClientRect(), found = this.found().filter(({ at }) => at >= 0);
    const wanted = this.plot.posToVal(hovered.x - box.left, "x");
    const rows = found.map(({ run, cells, at }) => {
      const k = nearest(cells.index, wanted);
      return [page.runs[run].colour, `${page.runs[run].label}, ${cells.index[k]}`, compact(cells.rows[at][k]) || "no number", false];
    });
    showTip(this.figure.axis, rows.slice(0, 9), rows.length - 9);
  }

  describe() {
    this.host.setAttribute("aria-label", `${this.figure.title}, ${siteName(this.site)}.`);
  }
}

// Neurons of the run in focus, sorted into blocks by frequency.
class NeuronPanel extends MomentPanel {
  found() {
    const cells = focused().cells.neuron_selectivity?.[this.site], frequencies = focused().cells.neuron_frequency?.[this.site];
    if (!cells || !frequencies || cells.index.length !== frequencies.index.length) return [];
    // A run that kept these at its end alone shows them at every step, and says so.
    const at = cells.x.length === 1 ? 0 : measuredAt(cells.x, choice.step);
    return [{ run: choice.focus, cells, frequencies, at }];
  }

  series(run) {
    const colour = colourOf(page.runs[run]);
    return { stroke: colour, paths: () => null, points: { show: true, size: 3, width: 0, fill: colour } };
  }

  span(from, to) {
    return [from - 2, to + 2];
  }

  isLog() {
    return false;
  }

  data([found]) {
    this.blocks = [];
    if (!found || found.at < 0) return [[0, 1], [null, null]];
    const selectivity = found.cells.rows[found.at], frequency = found.frequencies.rows[found.at];
    const order = selectivity
      .map((_, i) => i)
      .filter((i) => selectivity[i] !== null && frequency[i] !== null)
      .sort((a, b) => frequency[a] - frequency[b] || selectivity[b] - selectivity[a]);
    order.forEach((i, place) => {
      const last = this.blocks[this.blocks.length - 1];
      if (last?.frequency === frequency[i]) last.to = place;
      else this.blocks.push({ frequency: frequency[i], from: place, to: place });
    });
    this.order = order;
    return [order.map((_, place) => place), order.map((i) => selectivity[i])];
  }

  above(plot) {
    const { ctx, bbox } = plot, scale = devicePixelRatio, all = this.order?.length ?? 0;
    ctx.save();
    ctx.font = `${11 * scale}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    ctx.fillStyle = colours.muted;
    ctx.strokeStyle = colours.line;
    ctx.lineWidth = scale;
    for (const { frequency, from, to } of this.blocks ?? []) {
      if (to - from + 1 < 0.05 * all) continue;
      const left = plot.valToPos(from - 0.5, "x", true), right = plot.valToPos(to + 0.5, "x", true);
      ctx.strokeRect(left, bbox.top, right - left, bbox.height);
      if (right - left > 22 * scale) ctx.fillText(String(frequency), (left + right) / 2, bbox.top + 11 * scale);
    }
    ctx.restore();
  }

  paint() {
    super.paint();
    const only = this.found()[0]?.cells.x;
    if (this.note && only?.length === 1) this.note.textContent = `at step ${whole(only[0])}, the only one kept`;
  }

  cursor() {
    const [found] = this.found();
    if (hovered?.panel !== this || !found || found.at < 0) return;
    const place = Math.round(this.plot.posToVal(hovered.x - this.plot.over.getBoundingClientRect().left, "x"));
    const i = this.order?.[place];
    if (i === undefined) return;
    const frequency = found.frequencies.rows[found.at][i];
    showTip(`neuron ${found.cells.index[i]}`, [
      [focused().colour, "frequency", String(frequency), false],
      [focused().colour, "selectivity", compact(found.cells.rows[found.at][i]), false],
    ]);
  }
}
