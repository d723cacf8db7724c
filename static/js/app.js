/* What HTML and htmx cannot do: follow a log, fold it, find in it, keep the title true, shortcuts. */
"use strict";

(() => {
  const term = () => document.querySelector("[data-log]");
  const scroller = (list) => list.closest(".term") || list;
  let following = true;
  // Where in the log somebody was led to last.
  let shown = null;

  function isAtBottom(list) {
    return list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  }

  function follow() {
    const list = term();
    if (list && following) scroller(list).scrollTop = scroller(list).scrollHeight;
    const jump = document.querySelector("[data-jump]");
    if (jump) jump.hidden = following;
  }

  function keepPlace() {
    following = isAtBottom(term());
    const jump = document.querySelector("[data-jump]");
    if (jump) jump.hidden = following;
  }

  function watchScrolling() {
    const list = term();
    if (!list || list.dataset.watched) return;
    list.dataset.watched = "yes";
    list.addEventListener("scroll", keepPlace);
    if (!showNamed(location.hash)) follow();
  }

  function unfold(inside) {
    const step = inside.closest("[data-log] details");
    if (step) step.open = true;
  }

  function foldAll(open) {
    for (const step of document.querySelectorAll("[data-log] details")) step.open = open;
    keepPlace();
  }

  // Lines of a step come in several parts: they go under the head that is there, folded or not.
  function joinParts() {
    for (const part of document.querySelectorAll("[data-log] > [data-step]")) {
      const before = part.previousElementSibling;
      if (before && before.dataset.step === part.dataset.step) {
        before.querySelector("ol").append(...part.querySelectorAll("li"));
        part.remove();
      }
    }
  }

  // The list of steps is asked for as it changes; the heads in the log say what it says.
  function keepHeads() {
    for (const step of document.querySelectorAll("[data-of]")) {
      const head = document.getElementById(step.dataset.of);
      if (!head) continue;
      for (const part of ["svg:not(.turn)", ".visually-hidden", ".num"]) {
        const [said, news] = [head.querySelector(part), step.querySelector(part)];
        if (said.outerHTML !== news.outerHTML) said.replaceWith(news.cloneNode(true));
      }
    }
  }

  function findInLog(text) {
    const wanted = text.trim().toLowerCase();
    let count = 0;
    let first = null;
    for (const line of document.querySelectorAll("[data-log] li")) {
      const hit = wanted !== "" && line.textContent.toLowerCase().includes(wanted);
      line.classList.toggle("found", hit);
      if (hit) {
        unfold(line);
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

  function show(there, focused) {
    shown = there;
    following = false;
    unfold(there);
    there.scrollIntoView({ block: "center" });
    focused.focus({ preventScroll: true });
  }

  // What an address names in the log: a line, or the head of a step, which has one once it says something.
  function showNamed(hash) {
    const [, kind] = hash.match(/^#(L|step-)\d+$/) || [];
    const named = kind && document.getElementById(hash.slice(1));
    if (named) show(named, named.querySelector("a") || named);
    else if (kind === "step-") document.getElementById("log").scrollIntoView({ block: "nearest" });
    return named;
  }

  function showNextError() {
    const lines = [...document.querySelectorAll("[data-log] li[id]")].filter((line) => line.querySelector(".no"));
    const next = lines.find((line) => shown && shown.compareDocumentPosition(line) & Node.DOCUMENT_POSITION_FOLLOWING);
    const line = next || lines[0];
    if (line) show(line, line.querySelector("a"));
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
    const named = event.target.closest("a[href^='#']");
    if (named) window.setTimeout(() => showNamed(named.hash), 0);
    const fold = event.target.closest("[data-fold]");
    if (fold) foldAll(fold.dataset.fold === "none");
    const head = event.target.closest("[data-log] summary");
    if (head) window.setTimeout(keepPlace, 0);
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

  document.addEventListener("htmx:afterSwap", () => {
    joinParts();
    keepHeads();
  });

  document.addEventListener("htmx:afterSettle", () => {
    watchScrolling();
    follow();
    keepTitle();
  });

  // django-allauth's script talks with the browser; a button says which way.
  function offerPasskeys() {
    for (const button of document.querySelectorAll("[data-passkey]")) {
      const way = button.dataset.passkey;
      const { credential, passwordless } = button.form.elements;
      const ids = { [way]: button.id, credential: credential.id, data: "js_data" };
      if (passwordless) ids.passwordless = passwordless.id;
      window.allauth.webauthn.forms[`${way}Form`]({ ids });
    }
  }

  // The person closed the browser's question, or it has nothing to answer with.
  document.addEventListener("allauth.error", (event) => {
    const problem = document.querySelector("[data-passkey-problem]");
    if (!problem) return;
    event.preventDefault();
    problem.hidden = false;
  });

  watchScrolling();
  keepTitle();
  offerPasskeys();
})();
