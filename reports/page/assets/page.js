"use strict";
(() => {
  const source = document.getElementById("sample-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const PAGE = 20;
  const RIGHT = 0.5; // a mean score from which on an answer counts as right
  const UNPARSED = 1, TRUNCATED = 2;
  const titles = new Map(data.tasks);
  const runsOf = data.methods.map((_, place) => data.runs.filter((run) => run.method === place));

  // Mean score over seeds of each method, or NaN where it has none.
  const means = runsOf.map((runs) => Float64Array.from(data.questions, (_, q) => {
    const scores = runs.map((run) => run.scores[q]).filter((score) => score !== null);
    return scores.length ? scores.reduce((sum, score) => sum + score, 0) / scores.length : NaN;
  }));
  const flagged = (method, q, flag) => runsOf[method].some((run) => Number(run.flags[q]) & flag);
  const spread = Float64Array.from(data.questions, (_, q) => {
    const known = means.map((mean) => mean[q]).filter((score) => !Number.isNaN(score));
    return known.length ? Math.max(...known) - Math.min(...known) : 0;
  });
  const haystack = data.questions.map((one) => `${one[0]} ${data.scenes[one[1]][0]} ${one[3]}`.toLowerCase());

  const form = document.getElementById("filters");
  const list = document.getElementById("sample-list");
  const pagers = [...document.querySelectorAll(".pager")];
  let found = [];
  let page = 0;

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const fill = (name, choices) => {
    for (const [value, label] of choices) form.elements[name].append(new Option(label, value));
  };
  const methods = data.methods.map((method, place) => [String(place), method.label]);
  fill("task", data.tasks.map(([name, title]) => [name, title]));
  for (const name of ["right", "wrong", "method"]) fill(name, methods);
  fill("unparsed", [["any", "any method"], ...methods]);

  function matches(q) {
    const { task, right, wrong, unparsed, search } = form.elements;
    if (task.value && data.questions[q][2] !== task.value) return false;
    if (right.value && !(means[right.value][q] >= RIGHT)) return false;
    if (wrong.value && !(means[wrong.value][q] < RIGHT)) return false;
    if (unparsed.value === "any" && !data.methods.some((_, method) => flagged(method, q, UNPARSED))) return false;
    if (unparsed.value && unparsed.value !== "any" && !flagged(Number(unparsed.value), q, UNPARSED)) return false;
    return haystack[q].includes(search.value.trim().toLowerCase());
  }

  function difference(q) {
    const { right, wrong } = form.elements;
    return right.value && wrong.value ? Math.abs(means[right.value][q] - means[wrong.value][q]) : spread[q];
  }

  function update() {
    found = data.questions.map((_, q) => q).filter(matches);
    if (form.elements.order.value === "disagreement") found.sort((a, b) => difference(b) - difference(a) || a - b);
    page = 0;
    render();
  }

  function chip(run, q) {
    const score = run.scores[q];
    const flags = Number(run.flags[q]);
    const kind = score === null ? "" : score >= 1 ? "good" : score > 0 ? "mid" : "bad";
    const text = run.texts[q] < 0 ? "no answer" : data.texts[run.texts[q]];
    const element = make("span", `chip ${kind}`);
    const remarks = [score === null ? "not scored" : score >= 1 ? "✓ 1" : score > 0 ? String(score) : "✗ 0"];
    if (flags & UNPARSED) remarks.push("unparsable");
    if (flags & TRUNCATED) remarks.push("cut off");
    if (runsOf[run.method].length > 1) element.title = `seed ${run.seed}`;
    const long = text.length > 80; // the score of a long answer comes first, so that it stays in view
    const note = make("small", long ? "above" : "after", remarks.join(" · "));
    element.append(...(long ? [note, text] : [text === "" ? "(empty)" : text, note]));
    return element;
  }

  function answers(q) {
    const table = make("table", "answers");
    const only = form.elements.method.value;
    data.methods.forEach((method, place) => {
      if (only && Number(only) !== place) return;
      const row = table.insertRow();
      const head = make("th");
      head.scope = "row";
      const dot = make("i");
      dot.style.background = `var(${method.colour})`;
      head.append(dot, method.label);
      row.append(head);
      const chips = make("div", "chips");
      chips.append(...runsOf[place].map((run) => chip(run, q)));
      row.insertCell().append(chips);
    });
    return table;
  }

  function card(q) {
    const [id, scene, task, question, options, truth] = data.questions[q];
    const [name, sheet] = data.scenes[scene];
    const article = make("article", "sample");
    const left = make("div");
    if (sheet) {
      const image = make("img");
      image.src = sheet;
      image.alt = `Frames of ${name}`;
      left.append(image);
    }
    left.append(make("p", "scene", sheet ? name : `${name} (no frames)`));
    const right = make("div");
    right.append(make("p", "meta", `${titles.get(task)} · question ${id}`), make("p", "question", question));
    if (options) {
      const choices = make("ul");
      for (const option of options) {
        const isTrue = option.startsWith(`${truth}. `);
        choices.append(make("li", isTrue ? "true" : "", isTrue ? `${option} ✓` : option));
      }
      right.append(choices);
    } else {
      right.append(make("p", "truth", `Ground truth: ${truth}`));
    }
    right.append(answers(q));
    article.append(left, right);
    return article;
  }

  function render() {
    const first = page * PAGE;
    const shown = found.slice(first, first + PAGE);
    list.replaceChildren(...shown.map(card));
    if (!shown.length) list.append(make("p", "muted", "No question matches. Relax a filter."));
    const all = found.length === data.questions.length ? "questions" : `of ${data.questions.length.toLocaleString("en")} questions match`;
    const range = shown.length ? `, shown ${first + 1} to ${first + shown.length}` : "";
    for (const pager of pagers) {
      pager.querySelector(".count").textContent = `${found.length.toLocaleString("en")} ${all}${range}`;
      pager.querySelector(".previous").disabled = page === 0;
      pager.querySelector(".next").disabled = first + PAGE >= found.length;
    }
  }

  for (const pager of pagers) {
    const turn = (by) => {
      page += by;
      render();
      if (pager !== pagers[0]) list.scrollIntoView();
    };
    pager.querySelector(".previous").addEventListener("click", () => turn(-1));
    pager.querySelector(".next").addEventListener("click", () => turn(1));
  }
  form.addEventListener("input", update);
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll("button[data-right]")) {
    button.addEventListener("click", () => {
      form.reset();
      const place = (name) => String(data.methods.findIndex((method) => method.name === name));
      form.elements.right.value = place(button.dataset.right);
      form.elements.wrong.value = place(button.dataset.wrong);
      form.elements.order.value = "disagreement";
      document.getElementById("samples").scrollIntoView();
    });
  }
  update();
})();

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copy);
    getSelection().selectAllChildren(text);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected: now press Ctrl+C";
    }
  });
}

// Details cannot be opened on paper, so they are opened for printing.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});
