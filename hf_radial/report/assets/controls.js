"use strict";
// The bar with the time cursor, the table of runs at the cursor, and the figures below by question.

const $ = (id) => document.getElementById(id);
function element(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

function setFocus(run) {
  choice.focus = run;
  refresh(ALL);
}

// The bar ----------------------------------------------------------------------------------------------------------

function startBar() {
  const cursor = $("cursor"), view = $("view");
  const open = (whether) => {
    $("options").hidden = !whether;
    view.setAttribute("aria-expanded", String(whether));
  };
  view.addEventListener("click", () => open($("options").hidden));
  open(matchMedia("(min-width: 68rem)").matches);
  // The slider is as long as the axis of steps is, and has its scale; its keys go from one measured step to the next.
  const ends = () => {
    const steps = allSteps(), { to, back } = stretch();
    return { from: to(steps[0]), to: to(steps[steps.length - 1]), place: to, back };
  };
  cursor.addEventListener("input", () => {
    const { from, to, back } = ends();
    setStep(back(from + ((to - from) * cursor.value) / cursor.max));
  });
  cursor.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    moveStep(event.shiftKey ? 10 * by : by);
  });
  const range = () => {
    const all = allSteps(), from = $("from").value, to = $("to").value;
    setRange([from === "" ? all[0] : Number(from), to === "" ? all[all.length - 1] : Number(to)]);
  };
  $("from").addEventListener("change", range);
  $("to").addEventListener("change", range);
  $("reset").addEventListener("click", () => setRange(null));
  for (const name of ["axis", "values", "site"])
    $(name).addEventListener("change", () => {
      choice[name] = $(name).value;
      if (name === "values") for (const view of views) if (view instanceof Panel) view.log = null;
      if (name === "site") layOut();
      refresh(ALL);
    });
  $("smooth").addEventListener("input", () => {
    choice.smooth = Number($("smooth").value);
    refresh(ALL);
  });
  $("show-all").addEventListener("click", () => {
    choice.off.clear();
    refresh(ALL);
  });
  $("hide-all").addEventListener("click", () => {
    page.runs.forEach((_, i) => choice.off.add(i));
    refresh(ALL);
  });
  views.push({
    update(level) {
      const steps = allSteps(), epochs = focused().epochs, { from, to, place } = ends();
      if (level === ALL) {
        $("from").value = choice.range ? choice.range[0] : "";
        $("to").value = choice.range ? choice.range[1] : "";
        $("from").placeholder = steps[0];
        $("to").placeholder = steps[steps.length - 1];
      }
      cursor.value = to > from ? (cursor.max * (place(choice.step) - from)) / (to - from) : 0;
      const epoch = epochs ? `, epoch ${compact(Number((choice.step * epochs).toPrecision(3)))}` : "";
      $("step").value = `step ${whole(choice.step)}${epoch}`;
      cursor.setAttribute("aria-valuetext", $("step").value);
    },
  });
}

function fillSelects() {
  const option = (value, text) => element("option", { value }, text);
  $("site").replaceChildren(option("", "every site"), ...page.sites.map((site) => option(site, siteName(site))));
  $("site").value = choice.site;
  $("of-site").hidden = page.sites.length < 2;
}

// The table of runs ------------------------------------------------------------------------------------------------

const watched = new IntersectionObserver(([entry]) => entry.target.table.see(entry.isIntersecting));
function runTable() {
  const sites = firstSites();
  const columns = [
    ["training", page.train, "", true],
    ["held-out", page.held_out, "", true],
    ...sites.map((site) => [`radius${sites.length > 1 ? ` of ${siteName(site)}` : ""}`, ["radius_q50", "radius_mean"], site, false]),
  ];
  $("columns").replaceChildren(element("th", {}, "at the cursor"), ...columns.map(([name]) => element("th", { scope: "col" }, name)));
  const rows = page.runs.map((run, i) => {
    const box = element("input", { type: "checkbox", "aria-label": `show ${run.label}` });
    box.addEventListener("change", () => {
      choice.off[box.checked ? "delete" : "add"](i);
      refresh(ALL);
    });
    const pick = element("button", { type: "button", class: "pick", title: "show its details" }, run.label);
    pick.addEventListener("click", () => setFocus(i));
    const cells = columns.map(() => document.createTextNode(""));
    const row = element(
      "tr",
      {},
      element("th", { scope: "row", class: `c${run.colour}` }, element("span", {}, box, element("i", { class: `sample d${run.dash}` }), pick)),
      ...cells.map((cell) => element("td", {}, cell)),
    );
    return { row, box, pick, cells };
  });
  $("rows").replaceChildren(...rows.map(({ row }) => row));
  $("all-runs").hidden = page.runs.length < 3;
  let outside = false; // nobody sees it
  watched.disconnect();
  watched.observe($("runs"));
  return {
    see(visible) {
      outside = !visible;
      refresh(CURSOR);
    },
    update(level) {
      if (outside && level !== ALL) return;
      rows.forEach(({ row, box, pick, cells }, i) => {
        const run = page.runs[i];
        if (level === ALL) {
          box.checked = !choice.off.has(i);
          row.classList.toggle("off", choice.off.has(i));
          row.classList.toggle("focus", page.runs.length > 1 && choice.focus === i);
          pick.setAttribute("aria-pressed", String(choice.focus === i));
        }
        columns.forEach(([, sources, site, fraction], k) => {
          const line = lineOf(run, sources, site), at = line ? measuredAt(line.x, choice.step) : -1;
          const value = at < 0 ? undefined : line.y[at];
          const text = value === undefined ? "–" : value === null ? "no number" : fraction ? `${(Math.floor(value * 1000 + 1e-6) / 10).toFixed(1)} %` : value.toPrecision(3);
          if (cells[k].data !== text) cells[k].data = text;
        });
      });
    },
  };
}

// Figures ----------------------------------------------------------------------------------------------------------

// The sites of the first figure: both of two, the last of many, or the one that was chosen.
function firstSites() {
  if (choice.site) return [choice.site];
  return page.sites.length <= 2 ? page.sites : page.sites.slice(-1);
}

const TOP = [
  { id: "first-accuracy", title: "Accuracy", label: "accuracy (fraction)", bounded: true, marks: "accuracy" },
  { id: "first-radius", title: "Radius", label: "radius ||h||", marks: "radius", dashed: "radius_target", band: ["radius_q05", "radius_q95"] },
];

// Whether any run has a line of the figure, at a site or (null) anywhere.
function has(figure, site) {
  const any = (sites) => (site === null ? Object.values(sites ?? {}).some(({ x }) => x.length) : sites?.[site]?.x.length);
  const source = (name) => page.runs.some((run) => any(run.lines[name]) || any(run.cells[name]));
  return figure.lines.some(({ sources }) => sources.some(source));
}

// Sites that a figure has numbers of; those without hidden vectors, such as the embedding, come with every choice.
function sitesOf(figure) {
  if (!figure.sites) return has(figure, "") ? [""] : [];
  const metrics = figure.lines[0].sources;
  const all = new Set(page.sites);
  for (const run of page.runs) for (const metric of metrics) for (const part of [run.lines, run.cells]) for (const site of Object.keys(part[metric] ?? {})) if (site) all.add(site);
  return [...all].filter((site) => has(figure, site) && (!choice.site || site === choice.site || !page.sites.includes(site)));
}

const KINDS = { lines: Panel, heat: HeatPanel, bars: MomentPanel, spectrum: MomentPanel, neurons: NeuronPanel };
const same = (one, other) => one.length === other.length && one.every((value, i) => value === other[i]);

function card(listed) {
  const figure = { ...listed, lines: listed.lines.filter((line) => has({ lines: [line] }, null)) };
  if (!figure.lines.length || (figure.id === "radius" && page.sites.length <= 2)) return null; // the first figure has all
  const sites = sitesOf(figure);
  if (!sites.length) return null;
  // Nothing to see: all vectors are finite, or the gradient with the penalty is that of the task.
  const all = (test) => page.runs.every((run) => sites.every((site) => !run.lines[figure.id]?.[site] || test(run.lines, site)));
  if (figure.id === "nonfinite" && all((lines, site) => lines.nonfinite[site].y.every((value) => value === 0))) return null;
  if (figure.id === "radial_energy_total" && all((lines, site) => same(lines[figure.id][site].y, lines.radial_energy?.[site]?.y ?? []))) return null;
  const toggle = element("button", { type: "button", "aria-label": `axis of values: ${figure.title}` }, "log");
  const panels = [], parts = element("div", { class: "parts" });
  for (const site of sites) {
    const plot = element("div", { class: "plot" }), note = element("span", { class: "moment" });
    const panel = new KINDS[figure.kind](plot, figure, site, figure.kind === "heat" ? 240 : 180);
    panel.note = note;
    panels.push(panel);
    parts.append(element("div", { class: "part" }, element("div", { class: "key" }, site ? siteName(site) : "", " ", note), plot));
  }
  const flips = (figure.kind === "lines" || figure.kind === "spectrum") && !figure.bounded;
  toggle.addEventListener("click", () => {
    const log = !panels.some((panel) => panel.logarithmic);
    for (const panel of panels) panel.log = log;
    refresh(ALL);
  });
  views.push({
    of: parts,
    update() {
      const text = panels.some((panel) => panel.logarithmic) ? "log" : "linear";
      if (toggle.textContent !== text) toggle.textContent = text;
    },
  });
  const marks = ["strong line", "thin line", "dotted line"];
  const key = figure.lines.length > 1 && figure.kind === "lines" ? figure.lines.map(({ text }, i) => `${marks[Math.min(i, 2)]}: ${text}`).join(" · ") : "";
  const compare = figure.compare ? `dotted: ${figure.compare[1]}` : "";
  return element(
    "figure",
    { id: figure.id, class: `span${Math.min(sites.length, 4)}` },
    element("div", { class: "head" }, element("h3", {}, figure.title), ...(flips ? [toggle] : [])),
    element("div", { class: "key" }, [figure.label, key, compare].filter(Boolean).join(" · ")),
    parts,
    element("figcaption", {}, figure.caption),
  );
}

// Make all figures anew: at the start, when another site is chosen, and when a run has something new to show.
function layOut() {
  for (const view of views.splice(0)) {
    if (!(view instanceof Panel) && !view.of) views.push(view);
    else if (view instanceof Panel) view.remove();
  }
  hovered = null;
  tip.hidden = true;
  const [accuracy, radius] = TOP, panels = $("panels");
  panels.replaceChildren();
  const put = (figure, site, title, height) => {
    const plot = element("div", { class: "plot" });
    new Panel(plot, figure, site, height);
    panels.append(element("div", { class: "part" }, element("h3", {}, title), plot));
  };
  const accuracies = { ...accuracy, lines: [{ sources: page.held_out, text: "held-out" }, { sources: page.train, text: "training" }] };
  if (has(accuracies, "")) put(accuracies, "", "Accuracy", 220);
  const radii = { ...radius, lines: [{ sources: ["radius_q50", "radius_mean"], text: "" }] };
  for (const site of firstSites()) if (has(radii, site)) put(radii, site, `Radius of ${siteName(site)}`, 190);
  const sections = page.questions.map(({ question, figures }, i) => {
    const cards = figures.map(card).filter(Boolean);
    return cards.length ? element("section", { id: `question-${i}` }, element("h2", {}, question), element("div", { class: "grid" }, ...cards)) : null;
  });
  $("questions").replaceChildren(...sections.filter(Boolean));
  const table = runTable();
  $("runs").table = table;
  views.push({ of: $("runs"), update: (level) => table.update(level) });
  laidOut = inventory();
}

// What there is to draw: figures are laid out anew only if this changes.
let laidOut = "";
function inventory() {
  const found = new Set();
  for (const run of page.runs) for (const part of [run.lines, run.cells]) for (const [name, sites] of Object.entries(part)) for (const site of Object.keys(sites)) found.add(`${name} ${site}`);
  return [...found].sort().join("\n");
}
