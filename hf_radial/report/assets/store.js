"use strict";
// The page's numbers, what the reader has chosen, and the one loop that draws. Nothing here knows how a figure looks.

let page; // what data.py wrote; every run has `lines`: source -> site -> {x: steps, y: values}
const choice = {
  step: 0, // of the time cursor
  range: null, // [first, last] step, or null for all
  axis: "log", // of steps
  values: "", // axis of values of all figures: "" is as fits
  smooth: 0, // weight of what came before
  off: new Set(), // runs that are not shown
  focus: 0, // the run whose details are shown
  site: "", // "" is every site
};
const CURSOR = 1, ALL = 2;
const views = []; // each has update(level)
let due = 0;

function refresh(level) {
  if (!due) requestAnimationFrame(draw);
  due = Math.max(due, level);
}

function draw() {
  const level = due;
  due = 0;
  for (const view of views) view.update(level);
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

function setPage(found) {
  page = found;
  for (const run of page.runs) {
    run.lines = {};
    run.cells = {};
    addRows(run, run);
    delete run.series;
    delete run.indexed;
  }
}

// Append rows to a run's lines. `keep` points stay: a run that was resumed measures some steps again.
function addRows(run, found) {
  for (const [source, sites] of Object.entries(found.series))
    for (const [site, [steps, values, keep]] of Object.entries(sites)) {
      const line = ((run.lines[source] ??= {})[site] ??= { x: [], y: [] }), x = found.steps[steps];
      line.x = keep ? line.x.slice(0, keep).concat(x) : x;
      line.y = keep ? line.y.slice(0, keep).concat(values) : values;
    }
  for (const [metric, sites] of Object.entries(found.indexed))
    for (const [site, [steps, index, flat, keep]] of Object.entries(sites)) {
      const x = found.steps[steps], rows = x.map((_, i) => flat.slice(i * index.length, (i + 1) * index.length));
      const old = run.cells[metric]?.[site] ?? { x: [], rows: [] };
      (run.cells[metric] ??= {})[site] = { x: old.x.slice(0, keep).concat(x), index, rows: old.rows.slice(0, keep).concat(rows) };
    }
  known = null;
}

const shown = () => page.runs.map((_, i) => i).filter((i) => !choice.off.has(i));
const focused = () => page.runs[choice.focus];
const siteName = (site) => page.names[site] ?? site;

// The first of several sources that a run has at a site.
function lineOf(run, sources, site) {
  for (const source of sources) {
    const line = run.lines[source]?.[site];
    if (line?.x.length) return line;
  }
  return null;
}

// The place of the first step in ascending `x` that is not before `step`.
function before(x, step) {
  let low = 0, high = x.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The place of the step nearest to `step`, the earlier of two; -1 where the line is empty.
function nearest(x, step) {
  const next = before(x, step);
  if (next === x.length) return x.length - 1;
  return next > 0 && step - x[next - 1] <= x[next] - step ? next - 1 : next;
}

// The same, but -1 beyond the line's last step, where the run has ended: one step of its grid further is still it.
function measuredAt(x, step) {
  const last = x.length - 1;
  if (last < 0 || (last > 0 && step > 2 * x[last] - x[last - 1])) return -1;
  return nearest(x, step);
}

// All steps at which a shown run was logged or measured, ascending.
let known = null, knownFor = "";
function allSteps() {
  const key = shown().join();
  if (known && knownFor === key) return known;
  const found = new Set(), seen = new Set();
  for (const i of shown())
    for (const sites of Object.values(page.runs[i].lines))
      for (const { x } of Object.values(sites))
        if (!seen.has(x)) {
          seen.add(x);
          for (const step of x) found.add(step);
        }
  known = [...found].sort((a, b) => a - b);
  if (!known.length) known = [0];
  knownFor = key;
  return known;
}

function stepRange() {
  const steps = allSteps(), last = steps[steps.length - 1];
  let [low, high] = choice.range ?? [steps[0], last];
  if (low === 0 && choice.axis === "log" && firstStep() === low) low = 1;
  return high > low ? [low, high] : [low - 0.5, low + 0.5];
}

// The first step above 0: a logarithmic axis is linear below it, so that step 0 has a place.
function firstStep() {
  const steps = allSteps();
  return steps.find((step) => step > 0) ?? 1;
}

function setStep(step) {
  const steps = allSteps();
  choice.step = steps[nearest(steps, step)];
  refresh(CURSOR);
}

// Move by so many measured steps.
function moveStep(by) {
  const steps = allSteps();
  choice.step = steps[Math.min(Math.max(nearest(steps, choice.step) + by, 0), steps.length - 1)];
  refresh(CURSOR);
}

function setRange(range) {
  const steps = allSteps();
  if (range) {
    const low = Math.max(Math.round(range[0]), steps[0]), high = Math.min(Math.round(range[1]), steps[steps.length - 1]);
    choice.range = high > low && (low > steps[0] || high < steps[steps.length - 1]) ? [low, high] : null;
  } else choice.range = null;
  refresh(ALL);
}

// Exponential mean over measured values, without a bias towards the first; gaps stay gaps.
function smoothed(y) {
  const weight = choice.smooth;
  if (!weight) return y;
  let mean = 0, seen = 0;
  return y.map((value) => {
    if (value === null) return null;
    mean = weight * mean + (1 - weight) * value;
    seen = weight * seen + (1 - weight);
    return mean / seen;
  });
}

// A number in the short form of an axis: 0, 0.25, 2500, 20k, 3e-5.
function compact(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e4 && size < 1e10) {
    const power = 3 * Math.floor(Math.log10(size) / 3);
    return Number((value / 10 ** power).toPrecision(3)) + { 3: "k", 6: "M", 9: "G" }[power];
  }
  if (size >= 1e-3 && size < 1e4) return String(Number(value.toPrecision(4)));
  return value.toExponential(1).replace(".0e", "e").replace("e+", "e");
}

const whole = (step) => Math.round(step).toLocaleString("en");
// At most `most` round numbers on a logarithmic axis, as axes.py chooses them.
function roundNumbers(low, high, most) {
  const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high));
  let found = [];
  for (const digits of [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    found = [];
    for (let decade = from; decade <= to; decade++)
      for (const digit of digits) {
        const value = Number(`${digit}e${decade}`);
        if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) found.push(value);
      }
    if (found.length <= most) return found.length > 1 ? found : [low, high];
  }
  const every = Math.ceil(found.length / most);
  return found.filter((_, i) => (found.length - 1 - i) % every === 0);
}
