"use strict";
(async function () {
  const run = JSON.parse(document.getElementById("data").textContent);
  const packed = document.getElementById("plotly");
  const copy = document.getElementById("copy");
  copy.addEventListener("click", () => {
    navigator.clipboard?.writeText(document.getElementById("command").textContent).then(() => { copy.textContent = "Copied"; });
  });
  const failed = (why) => {
    for (const element of document.querySelectorAll(".waiting")) element.textContent = why;
    document.documentElement.dataset.charts = "failed";
  };
  if (typeof DecompressionStream === "undefined") {
    failed("Charts need a browser of 2023 or later; the tables hold the same figures.");
    return;
  }
  const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  packed.remove();

  const plots = Object.values(run.charts).map((chart) => ({ chart, element: document.getElementById(`plot-${chart.id}`), variant: null }));
  const draw = (plot) => Charts.draw(plot.element, plot.chart, run, plot.variant);
  for (const plot of plots) {
    await draw(plot);
    // Lets the page be scrolled while the charts further down are drawn.
    await new Promise((next) => setTimeout(next));
  }
  const timed = plots.filter((plot) => plot.chart.time);
  let following = false;
  for (const plot of timed) {
    plot.element.on("plotly_relayout", (change) => {
      if (following) return;
      if (!Object.keys(change).some((key) => key.startsWith("xaxis."))) return;
      const range = change["xaxis.autorange"] ? run.range : plot.element.layout.xaxis.range;
      following = true;
      Promise.all(timed.map((other) => Plotly.relayout(other.element, { "xaxis.range": [...range] }))).finally(() => { following = false; });
    });
  }
  for (const select of document.querySelectorAll("select[data-chart]")) {
    const plot = plots.find(({ chart }) => chart.id === select.dataset.chart);
    select.addEventListener("change", () => { plot.variant = select.value; draw(plot); });
  }
  document.addEventListener("themechange", () => plots.forEach(draw));

  // Paper is light, and as wide as the print style sheet says, not as the window.
  let theme = null;
  addEventListener("beforeprint", () => {
    theme = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    for (const details of document.querySelectorAll("details")) details.open = true;
    for (const plot of plots) {
      const pair = plot.element.closest(".pairs");
      draw(plot);
      Plotly.relayout(plot.element, { width: pair ? 315 : 660, height: pair ? 190 : 200 });
      plot.element.style.height = pair ? "190px" : "200px";
    }
  });
  addEventListener("afterprint", () => {
    document.documentElement.dataset.theme = theme;
    for (const plot of plots) {
      plot.element.style.height = "";
      Plotly.relayout(plot.element, { width: null });
      draw(plot);
    }
  });
  document.documentElement.dataset.charts = "drawn";
})();
