"use strict";
// Draws what _chart.py describes. Colours come from the style sheet, so that both themes and paper work.
const Charts = (function () {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const alpha = (hex, share) => `${hex}${Math.round(share * 255).toString(16).padStart(2, "0")}`;
  // Plotly reads a small set of HTML in texts; names and labels come from outside.
  const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const narrow = (element) => element.clientWidth < 520;
  const format = (chart) => (chart.share ? ".1%" : ".4~g");

  function lines(chart, trace) {
    const base = { x: trace.x || chart.x, name: plain(trace.name), line: { color: colour(trace.colour), width: 2 } };
    const hover = `%{y:${format(chart)}}<extra>${plain(trace.name)}</extra>`;
    if (trace.kind === "bars") {
      return [{ ...base, y: trace.y, type: "bar", marker: { color: colour(trace.colour) }, hovertemplate: hover }];
    }
    const lone = trace.y.filter((y) => y !== null).length < 3;
    const line = { ...base, y: trace.y, type: "scatter", mode: lone ? "lines+markers" : "lines", hovertemplate: hover };
    if (trace.kind === "dashed") return [{ ...line, line: { ...base.line, dash: "dot", width: 1.8 } }];
    if (trace.kind === "area") return [{ ...line, fill: "tozeroy", fillcolor: alpha(colour(trace.colour), 0.2) }];
    if (trace.kind === "steps") {
      return [{ ...line, line: { ...base.line, shape: "hvh", width: 1.2 }, fill: "tozeroy", fillcolor: alpha(colour(trace.colour), 0.45) }];
    }
    if (trace.kind === "line") return [line];
    return bands(chart, trace, line);
  }

  // The median, and above it two bands. A gap in the data ends a band: Plotly would fill across it.
  function bands(chart, trace, median) {
    const drawn = [];
    const edges = [trace.y, ...trace.upper];
    for (const [number, name] of [[1, "p90"], [2, "p99"]]) {
      for (const [from, to] of stretches(trace.y)) {
        const x = chart.x.slice(from, to);
        const low = edges[number - 1].slice(from, to);
        drawn.push({
          x: [...x, ...x.toReversed()], y: [...edges[number].slice(from, to), ...low.toReversed()],
          type: "scatter", mode: "lines", line: { width: 0 }, fill: "toself", hoverinfo: "skip", showlegend: false,
          fillcolor: alpha(colour(trace.colour), number === 1 ? 0.34 : 0.16),
        });
      }
      drawn.push({
        ...median, y: edges[number], name, line: { color: alpha(colour(trace.colour), 0.75), width: 1 },
        hovertemplate: `%{y:${format(chart)}}<extra>${name}</extra>`,
      });
    }
    return [...drawn, { ...median, line: { ...median.line, width: 2.4 }, legendrank: 1 }];
  }

  function stretches(values) {
    const found = [];
    let start = null;
    for (let i = 0; i <= values.length; i++) {
      const there = i < values.length && values[i] !== null;
      if (there && start === null) start = i;
      if (!there && start !== null) { found.push([start, i]); start = null; }
    }
    return found;
  }

  function shapes(chart, run) {
    const drawn = chart.spans.map((span) => ({
      type: "rect", xref: "x", yref: "paper", x0: span.start, x1: span.end, y0: 0, y1: 1, layer: "below",
      line: { width: 0 }, fillcolor: alpha(colour(span.colour), 0.2),
    }));
    for (const [x0, x1] of chart.time && run ? [[run.range[0], run.window[0]], [run.window[1], run.range[1]]] : []) {
      if (x1 > x0) {
        drawn.push({ type: "rect", xref: "x", yref: "paper", x0, x1, y0: 0, y1: 1, layer: "below", line: { width: 0 },
          fillcolor: alpha(colour("muted"), 0.13) });
      }
    }
    for (const bound of chart.bounds) {
      const line = { type: "line", layer: "above", line: { color: colour("ink"), width: 1.3, dash: "dash" } };
      drawn.push(bound.axis === "y"
        ? { ...line, xref: "paper", x0: 0, x1: 1, yref: "y", y0: bound.at, y1: bound.at }
        : { ...line, yref: "paper", y0: 0, y1: 1, xref: "x", x0: bound.at, x1: bound.at });
    }
    return drawn;
  }

  function annotations(chart) {
    return chart.bounds.map((bound, number) => ({
      text: plain(bound.label), showarrow: false, font: { size: 11, color: colour("ink") }, bgcolor: alpha(colour("card"), 0.75),
      ...(bound.axis === "y"
        ? { xref: "paper", x: 1, xanchor: "right", yref: "y", y: bound.at, yanchor: "bottom" }
        : { xref: "x", x: chart.log_x ? Math.log10(bound.at) : bound.at, xanchor: "left", yref: "paper", y: 1 - 0.1 * number, yanchor: "top" }),
    }));
  }

  function layout(element, chart, run, traces) {
    const axis = {
      gridcolor: colour("grid"), linecolor: colour("line"), zeroline: false, tickfont: { size: 11.5 }, automargin: false,
      title: { font: { size: 11.5, color: colour("muted") }, standoff: 6 },
    };
    const x = { ...axis, ticksuffix: ` ${plain(chart.x_unit)}` };
    if (chart.time && run) x.range = [...run.range];
    if (chart.log_x) Object.assign(x, { type: "log", ticksuffix: "", ...milliseconds(traces, chart, narrow(element) ? 5 : 8) });
    const y = { ...axis, title: { ...axis.title, text: plain(chart.y_title) }, rangemode: "tozero", nticks: 6, fixedrange: true };
    if (chart.share) y.tickformat = ".0%";
    const top = highest(chart, traces);
    if (top) y.range = [0, top];
    const legend = chart.stacked || traces.filter((trace) => trace.showlegend !== false).length > 1;
    return {
      height: element.clientHeight, margin: { l: narrow(element) ? 50 : 62, r: narrow(element) ? 14 : 22, t: legend ? 28 : 10, b: 26 }, paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)", font: { family: getComputedStyle(document.body).fontFamily, color: colour("ink"), size: 12 }, xaxis: x, yaxis: y,
      barmode: chart.stacked ? "stack" : "overlay", bargap: chart.time ? 0 : 0.06, hovermode: "x unified",
      hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink"), size: 12 } },
      showlegend: legend,
      legend: { orientation: "h", traceorder: "normal", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", font: { size: 11.5 }, bgcolor: "rgba(0,0,0,0)" },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", shapes: shapes(chart, run), annotations: annotations(chart),
      separators: ".\u2009",
    };
  }

  // Ticks of a logarithmic axis in milliseconds: at 1, 2 and 5 of each decade, or only at 1 where those are too many.
  function milliseconds(traces, chart, most) {
    const values = [...traces.flatMap((trace) => trace.x), ...chart.bounds.map((bound) => bound.at)];
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const ticks = (steps) => {
      const found = [];
      for (let power = -3; power < 8; power++) {
        for (const step of steps) found.push(Number((step * 10 ** power).toPrecision(2)));
      }
      return found.filter((tick) => tick >= low / 1.05 && tick <= high * 1.05);
    };
    const fitting = [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 2, 5], [1, 3], [1]].map(ticks);
    const tickvals = fitting.find((found) => found.length <= most) || fitting.at(-1);
    return { tickvals, ticktext: tickvals.map((tick) => (tick >= 1000 ? `${tick / 1000} s` : `${tick} ms`)) };
  }

  // Where the y axis ends; null: where Plotly ends it. A bound far above the values would flatten them, and is left out.
  function highest(chart, traces) {
    const bounds = chart.bounds.filter((bound) => bound.axis === "y").map((bound) => bound.at);
    if (!bounds.length && !chart.share) return null;
    const largest = Math.max(0, ...traces.flatMap((trace) => trace.y).filter((y) => y !== null));
    return Math.max((chart.share ? 1.02 : 1.12) * Math.max(largest, ...bounds.filter((bound) => bound <= 3 * largest)), chart.share ? 1.02 : 0);
  }

  function draw(element, chart, run, variant) {
    const chosen = (variant && chart.variants[variant]) || chart.traces;
    const traces = chosen.flatMap((trace) => lines(chart, trace));
    element.querySelector(".waiting")?.remove();
    return Plotly.react(element, traces, layout(element, chart, run, traces), { displayModeBar: false, responsive: true });
  }

  return { draw };
})();
