"use strict";
(function () {
  const PERIOD_MS = 2000;
  const state = document.getElementById("state");
  const select = document.getElementById("scenario");
  const body = document.getElementById("rows");
  const columns = body.dataset.columns.split(",");
  let latest = null;

  function table(rows) {
    body.replaceChildren(...rows.map((row) => {
      const line = document.createElement("tr");
      for (const column of columns) line.insertCell().textContent = row[column];
      return line;
    }));
  }

  function scenarios(names) {
    const shown = [...select.options].map((option) => option.value);
    for (const name of names) if (!shown.includes(name)) select.add(new Option(name));
  }

  function draw() {
    for (const figure of document.querySelectorAll(".chart")) {
      const chart = latest.charts[figure.id.replace("figure-", "")];
      figure.hidden = !chart;
      if (chart) Charts.draw(figure.querySelector(".plot"), chart, latest, null);
    }
  }

  async function update() {
    try {
      const answer = await fetch(`figures.json?scenario=${encodeURIComponent(select.value)}`, { cache: "no-store" });
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      latest = await answer.json();
      table(latest.rows);
      scenarios(latest.scenarios);
      if (latest.rows.some((row) => row.requests)) {
        draw();
        state.textContent = `As of ${new Date().toLocaleTimeString()}`;
        document.documentElement.dataset.charts = "drawn";
      }
    } catch (error) {
      state.textContent = `Locust does not answer (${error.message}); what is shown is what it said last.`;
    }
  }

  async function loop() {
    if (!document.hidden) await update();
    setTimeout(loop, PERIOD_MS);
  }

  select.addEventListener("change", update);
  document.addEventListener("themechange", () => latest && draw());
  loop();
})();
