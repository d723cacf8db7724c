/* What HTML and htmx cannot do: follow a log, find in it, keep the title true, shortcuts. */
"use strict";

(() => {
  const term = () => document.querySelector("[data-log]");
  const scroller = (list) => list.closest(".term") || list;
  let following = true;

  function isAtBottom(list) {
    return list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  }

  function follow() {
    const list = term();
    if (list && following) scroller(list).scrollTop = scroller(list).scrollHeight;
    const jump = document.querySelector("[data-jump]");
    if (jump) jump.hidden = following;
  }

  function watchScrolling() {
    const list = term();
    if (!list || list.dataset.watched) return;
    list.dataset.watched = "yes";
    following = !location.hash.startsWith("#L");
    list.addEventListener("scroll", () => {
      following = isAtBottom(list);
      const jump = document.querySelector("[data-jump]");
      if (jump) jump.hidden = following;
    });
    follow();
  }

  function findInLog(text) {
    const wanted = text.trim().toLowerCase();
    let count = 0;
    let first = null;
    for (const line of document.querySelectorAll("[data-log] li")) {
      const hit = wanted !== "" && line.textContent.toLowerCase().includes(wanted);
      line.classList.toggle("found", hit);
      if (hit) {
        count += 1;
        first = first || line;
      }
    }
    const said = document.querySelector("[data-log-found]");
    if (said) said.textContent = wanted ? `${count} ${said.dataset.word}` : "";
    if (first) {
      following = false;
      first.scrollIntoView({ block: "nearest" });
    }
  }

  function show(line) {
    if (!line) return;
    following = false;
    line.scrollIntoView({ block: "center" });
    line.querySelector("a").focus({ preventScroll: true });
  }

  // A step leads to the first line of its time: both are written as the clock says.
  function showSince(clock) {
    const lines = [...document.querySelectorAll("[data-log] li[id]")];
    show(lines.find((line) => line.querySelector("time").textContent >= clock));
  }

  function showNextError() {
    const lines = [...document.querySelectorAll("[data-log] li[id]")].filter((line) => line.querySelector(".no"));
    const here = document.activeElement.closest("[data-log] li");
    const next = lines.find((line) => here && here.compareDocumentPosition(line) & Node.DOCUMENT_POSITION_FOLLOWING);
    show(next || lines[0]);
  }

  function keepTitle() {
    const state = document.querySelector("[data-title]");
    if (!state) return;
    document.title = state.dataset.title;
    const icon = document.querySelector("link[rel=icon]");
    if (icon && state.dataset.favicon && !icon.href.endsWith(state.dataset.favicon)) {
      icon.href = state.dataset.favicon;
    }
    const said = document.querySelector("[data-announce]");
    if (said && said.textContent !== state.dataset.announce) said.textContent = state.dataset.announce;
  }

  document.addEventListener("input", (event) => {
    if (event.target.matches("[data-log-find]")) findInLog(event.target.value);
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-jump]")) {
      following = true;
      follow();
    }
    const step = event.target.closest("[data-since]");
    if (step) {
      event.preventDefault();
      showSince(step.dataset.since);
    }
    if (event.target.closest("[data-next-error]")) showNextError();
    const pause = event.target.closest("[data-pause]");
    if (pause) {
      const paused = pause.getAttribute("aria-pressed") !== "true";
      pause.setAttribute("aria-pressed", String(paused));
      document.body.classList.toggle("is-paused", paused);
    }
  });

  // One click is one request; the server holds the same promise with an idempotency key.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post" || event.defaultPrevented) return;
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "yes";
    for (const button of form.querySelectorAll("button[type=submit], button:not([type])")) {
      window.setTimeout(() => { button.disabled = true; }, 0);
    }
  });

  window.addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    for (const form of document.querySelectorAll("form[data-sent]")) {
      delete form.dataset.sent;
      for (const button of form.querySelectorAll("button")) button.disabled = false;
    }
  });

  document.addEventListener("keydown", (event) => {
    const find = document.querySelector("[data-find]");
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k" && find) {
      event.preventDefault();
      find.focus();
    }
  });

  // j and k go from row to row, as in a mail reader; Enter opens what has the focus.
  function stepRow(forward) {
    const rows = [...document.querySelectorAll("[data-rows] tbody tr")].filter((row) => row.querySelector("a"));
    const here = rows.indexOf(document.activeElement.closest("[data-rows] tbody tr"));
    const next = rows[here < 0 ? 0 : here + (forward ? 1 : -1)];
    if (next) next.querySelector("a").focus();
  }

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "j" || event.key === "k") stepRow(event.key === "j");
  });

  // Hidden tabs and paused pages ask for nothing.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const polls = event.detail.elt.matches("[data-poll]");
    if (polls && (document.hidden || document.body.classList.contains("is-paused"))) {
      event.preventDefault();
    }
  });

  // Why it is refused is an answer to what somebody did; a poll waits for the next one.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, requestConfig } = event.detail;
    if (xhr.status >= 400 && requestConfig.verb !== "get") event.detail.shouldSwap = true;
  });

  document.addEventListener("htmx:afterSettle", () => {
    watchScrolling();
    follow();
    keepTitle();
  });

  watchScrolling();
  keepTitle();
})();
