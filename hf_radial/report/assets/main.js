"use strict";
// Starts the page, and follows a server where there is one.

async function start() {
  setPage(await unpack($("data").textContent));
  if (page.sites.length > 4) choice.site = page.sites[page.sites.length - 1];
  const onsets = page.runs.map((run) => run.answer.onset ?? Infinity);
  choice.focus = onsets.indexOf(Math.min(...onsets)); // the first to generalise, or else the first
  const { onset, fit } = focused().answer, steps = allSteps();
  choice.step = steps[nearest(steps, onset ?? fit ?? steps[steps.length - 1])];
  readColours();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColours();
    refresh(ALL);
  });
  fillSelects();
  startBar();
  $("instrument").hidden = false;
  layOut();
  refresh(ALL);
  if (document.body.classList.contains("live")) follow();
}

// Ask for rows that are newer than those that the page has.
async function follow() {
  let failures = 0;
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, document.hidden ? 5000 : 1000));
    try {
      const answer = await fetch(`rows?after=${page.after}&session=${encodeURIComponent(page.session)}`, { cache: "no-store" });
      if (answer.status === 410) return location.reload(); // another server, or runs that cannot be appended to
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      take(await answer.json());
      failures = 0;
    } catch (error) {
      failures += 1;
      $("news").textContent = failures > 2 ? `no answer from the server: ${error.message}` : $("news").textContent;
    }
  }
}

function take(found) {
  const steps = allSteps(), atEnd = choice.step === steps[steps.length - 1];
  for (const change of found.changes) {
    const number = page.runs.findIndex(({ name }) => name === change.run), run = page.runs[number];
    if (change.series) addRows(run, change);
    run.answer = change.answer;
    run.epochs = change.epochs;
    document.querySelector(`#answers [data-run="${number}"] span:last-child`).textContent = change.answer.text;
    for (const site of change.sites)
      if (!page.sites.includes(site)) {
        page.sites.push(site);
        Object.assign(page.names, change.names);
      }
  }
  page.after = found.after;
  if (found.headline !== undefined) $("headline").textContent = found.headline;
  $("news").textContent = found.news;
  if (!found.changes.length) return;
  if (inventory() !== laidOut) {
    fillSelects();
    layOut();
  }
  const now = allSteps();
  if (atEnd) choice.step = now[now.length - 1];
  refresh(ALL);
}

start().catch((error) => {
  $("trouble").hidden = false;
  $("trouble").textContent = `The figures could not be drawn (${error.message}). They need a browser of 2023 or later; hf-radial report --static makes a page without scripts.`;
  throw error;
});
