"use strict";
/* A browser of samples. They come from a source with one method, `find(query, tell)`, which promises {total, first,
   samples}: by default from the page's own data, or from `window.sampleSource`, which a script before this one may set.
   A source that does not know the total gives `more`, whether there are more samples, and `said`, a text in place of the
   count; it may `tell` of its progress before. */

(() => {
  const browser = document.querySelector("#browser");
  const data = JSON.parse(document.querySelector("#page-data").textContent);
  const controls = Object.fromEntries([...browser.querySelectorAll("[name]")].map((each) => [each.name, each]));
  const list = browser.querySelector(".samples");
  const status = browser.querySelector(".status");
  const perPage = 10;
  const pictureSide = 260; // pixels of the longer side of an image, where it is not too small for that
  const largestScale = 3;
  const fewViews = 12; // of more the thumbnails are smaller
  const longestText = 320; // letters of a caption that are shown before it is unfolded

  const kindOf = (caption) => (caption.of === "text" ? "alt-text" : caption.of);
  const source = window.sampleSource ?? { find: findInPage };
  let page = 0;
  let latest = 0;
  let openKey = data.open ?? null;

  /* The samples of the page that a query asks for: those that hold all of its words, in its order. */
  function findInPage({ words, shard, of, order, page, key }) {
    const needles = words.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (sample) => {
      if (shard && sample.shard !== shard) return false;
      const texts = captionsOf(sample, of).map((caption) => caption.text);
      if (of && !texts.length) return false;
      const hay = [sample.key, sample.label ?? "", ...texts].join("\n").toLowerCase();
      return needles.every((needle) => hay.includes(needle));
    };
    const found = data.samples.filter(fits);
    const [by, direction] = order.split(" ");
    if (by !== "stored") {
      const values = new Map(found.map((sample) => [sample, valueOf(sample, by, of)]));
      const sign = direction === "up" ? 1 : -1;
      const rank = (sample) => values.get(sample) ?? sign * Infinity;
      found.sort((a, b) => sign * (rank(a) - rank(b)) || 0);
    }
    const place = key === null ? -1 : found.findIndex((sample) => sample.key === key);
    const first = place < 0 ? page * perPage : perPage * Math.floor(place / perPage);
    return { total: found.length, first, samples: found.slice(first, first + perPage) };
  }

  const captionsOf = (sample, of) => sample.captions.filter((caption) => !of || caption.of === of);

  /* What a sample is sorted by: a score of its own, or the mean similarity of the captions of one kind. */
  function valueOf(sample, by, of) {
    if (by !== "similarity") return sample.scores[by.replace(/^score:/, "")] ?? null;
    const values = captionsOf(sample, of).map((caption) => caption.similarity).filter((value) => value !== null);
    return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
  }

  /* An element with attributes and children; texts become text nodes, whatever they hold. */
  function make(name, attributes, ...children) {
    const isShape = ["svg", "rect"].includes(name);
    const node = isShape ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  const text = (value) => make("bdi", {}, value);

  function card(sample) {
    const link = make("a", { href: `#key=${encodeURIComponent(sample.key)}`, class: "key" }, text(sample.key));
    const label = sample.label === null ? null : make("span", { class: "tag" }, `class ${sample.label}`);
    const head = make("div", { class: "line" }, link, make("span", { class: "quiet" }, text(sample.shard)), label);
    for (const [name, value] of Object.entries(sample.scores)) {
      head.append(make("span", { class: "quiet" }, text(name), ` ${shown(value)}`));
    }
    const body = make("div", { class: "told" }, head);
    if (sample.problem) body.append(make("p", { class: "warning" }, text(sample.problem)));
    if (sample.captions.length) body.append(captionsTable(sample));
    if (sample.more_captions) {
      body.append(make("p", { class: "quiet" }, `… and ${sample.more_captions.toLocaleString("en")} more captions`));
    }
    const views = viewsOf(sample);
    if (views) body.append(views.strip);
    const element = make("li", { class: "sample", "data-key": sample.key, tabindex: "-1" });
    element.append(views?.picture ?? picture(sample, []), body);
    return element;
  }

  const shown = (value) => (value === null ? "–" : value.toFixed(Math.abs(value) < 10 ? 3 : 1));

  function captionsTable(sample) {
    const teachers = data.teachers.filter((name) => sample.captions.some((caption) => name in caption.similarities));
    const hasMean = sample.captions.some((caption) => caption.similarity !== null);
    const columns = !hasMean ? [] : teachers.length > 1 ? ["mean", ...teachers] : ["similarity"];
    const head = make("tr", {}, make("th", { scope: "col" }, "Captions"));
    for (const name of columns) {
      const column = make("th", { scope: "col", class: "number", title: name }, text(name));
      column.style.width = `clamp(84px, ${name.length + 2}ch, min(30vw, 480px) / ${columns.length})`;
      head.append(column);
    }
    const rows = captionsOf(sample, controls.of.value).map((caption) => captionRow(caption, columns));
    return make("table", { class: "captions" }, make("thead", {}, head), make("tbody", {}, ...rows));
  }

  function captionRow(caption, columns) {
    const kind = make("span", { class: caption.of === "text" ? "kind own" : "kind" }, text(kindOf(caption)));
    const faults = caption.faults.map((fault) => make("span", { class: "tag alarm" }, fault));
    const words = make("span", { class: "caption", dir: "auto" }, caption.text);
    const cut = caption.cut ? make("span", { class: "quiet" }, ` … and ${caption.cut.toLocaleString("en")} more letters`) : null;
    const row = make("tr", {}, make("td", {}, kind, " ", ...(isLong(caption) ? [folded(words)] : [words]), cut, ...faults));
    for (const name of columns) {
      const value = ["mean", "similarity"].includes(name) ? caption.similarity : (caption.similarities[name] ?? null);
      const meter = make("span", { class: "meter" });
      meter.style.width = `${value === null ? 0 : 100 * share(value)}%`;
      row.append(make("td", { class: "number", "data-name": name }, shown(value), meter));
    }
    return row;
  }

  const isLong = (caption) => caption.text.length > longestText;

  /* The first lines of a long text, with a button for the whole. */
  function folded(words) {
    words.classList.add("folded");
    const button = make("button", { type: "button", class: "unfold", "aria-expanded": "false" }, "Whole text");
    button.addEventListener("click", () => {
      const isFolded = words.classList.toggle("folded");
      button.setAttribute("aria-expanded", !isFolded);
      button.textContent = isFolded ? "Whole text" : "Less";
    });
    return make("div", {}, words, button);
  }

  const share = (value) => Math.min(1, Math.max(0, (value - data.lowest) / (data.highest - data.lowest || 1)));

  function picture(sample, boxes) {
    if (!sample.image) return make("div", { class: "picture none" }, make("span", {}, sample.why_no_image || "no image"));
    const { src, width, height } = sample.image;
    const overlay = make("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...boxes);
    const scale = Math.min(largestScale, pictureSide / Math.max(width, height));
    const shownSize = { width: Math.round(width * scale), height: Math.round(height * scale) };
    const frame = make("div", { class: "frame" }, make("img", { src, alt: `image of ${sample.key}`, ...shownSize }), overlay);
    return make("div", { class: "picture" }, frame, make("span", { class: "quiet" }, `${width} × ${height} px`));
  }

  /* The image with a rectangle for each view, and a button for each view in the colour of its own. */
  function viewsOf(sample) {
    if (!sample.views.length) return null;
    const faint = Math.max(0.1, Math.min(1, fewViews / 2 / sample.views.length)); // so that many leave the image to be seen
    const boxes = sample.views.map(({ box }) =>
      box && make("rect", { x: box[1], y: box[0], width: box[3], height: box[2], class: "crop" }));
    const color = (node, index) => node.style.setProperty("--view", `var(--c${index % 8})`);
    boxes.forEach((box, index) => {
      if (!box) return;
      color(box, index);
      box.style.setProperty("--faint", faint);
    });
    const told = make("p", { class: "quiet described" });
    const number = sample.views.length;
    const count = number === 1 ? "1 view" : `${number} views`;
    const counted = sample.num_views > number ? `the first ${count} of ${sample.num_views.toLocaleString("en")}` : count;
    const show = (chosen) => {
      boxes.forEach((box, index) => box?.classList.toggle("chosen", index === chosen));
      told.textContent = chosen < 0 ? counted : `View ${chosen}: ${sample.views[chosen].told}`;
    };
    let pressed = -1;
    const buttons = sample.views.map((view, index) => {
      const look = sample.strip ? make("img", { src: sample.strip, alt: "" }) : `${index}`;
      if (sample.strip) look.style.objectPosition = `${(100 * index) / Math.max(1, number - 1)}% 0`;
      const button = make("button", { type: "button", class: "view", "aria-pressed": "false",
        "aria-label": `view ${index}: ${view.told}` }, look);
      color(button, index);
      button.addEventListener("mouseenter", () => show(index));
      button.addEventListener("focus", () => show(index));
      for (const event of ["mouseleave", "blur"]) button.addEventListener(event, () => show(pressed));
      button.addEventListener("click", () => {
        pressed = pressed === index ? -1 : index;
        buttons.forEach((each, number) => each.setAttribute("aria-pressed", number === pressed));
        show(pressed);
      });
      return button;
    });
    show(pressed);
    const size = number > fewViews ? "strip many" : "strip";
    const toolbar = make("div", { class: size, role: "toolbar", "aria-label": `views of ${sample.key}` }, ...buttons);
    const reach = (chosen) => { for (const button of buttons) button.tabIndex = button === chosen ? 0 : -1; };
    reach(buttons[0]);
    toolbar.addEventListener("focusin", (event) => reach(event.target));
    toolbar.addEventListener("keydown", (event) => turnFocus(event, buttons));
    const strip = make("div", {}, toolbar, told);
    return { strip, picture: picture(sample, boxes.filter(Boolean)) };
  }

  /* Arrows go from view to view, so that Tab goes from sample to sample, and comes back to the view that was left. */
  function turnFocus(event, buttons) {
    const at = buttons.indexOf(event.target);
    const last = buttons.length - 1;
    const places = { ArrowRight: Math.min(at + 1, last), ArrowLeft: Math.max(at - 1, 0), Home: 0, End: last };
    const place = places[event.key];
    if (at < 0 || place === undefined) return;
    event.preventDefault();
    buttons[place].focus();
  }

  async function show() {
    const query = { words: controls.words.value, shard: controls.shard.value, of: controls.of.value,
      order: controls.order.value, page, key: openKey };
    const number = ++latest;
    const found = await source.find(query, (progress) => { if (number === latest) status.textContent = progress; });
    if (number !== latest) return; // another query has been made meanwhile
    const { total, first, samples } = found;
    page = Math.floor(first / perPage);
    const last = first + samples.length;
    const counted = total ? `${first + 1}–${last} of ${total.toLocaleString("en")}` : "No sample fits";
    status.textContent = found.said ?? counted;
    controls.previous.disabled = controls.earlier.disabled = first === 0;
    controls.next.disabled = controls.later.disabled = !(found.more ?? last < total);
    controls.earlier.parentNode.hidden = controls.previous.disabled && controls.next.disabled;
    list.replaceChildren(...samples.map(card));
    if (openKey !== null) open(openKey);
  }

  /* Go to a sample that is shown. */
  function open(key) {
    openKey = null;
    const element = [...list.children].find((each) => each.dataset.key === key);
    if (!element) return;
    element.classList.add("opened");
    element.scrollIntoView({ block: "start", behavior: "instant" });
    element.focus({ preventScroll: true });
  }

  const restart = () => { page = 0; show(); };
  let waiting = 0;
  controls.words.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(restart, 120); });
  for (const name of ["shard", "of", "order"]) controls[name].addEventListener("change", restart);
  const turn = (by) => { page += by; show().then(() => browser.scrollIntoView({ block: "start" })); };
  for (const name of ["previous", "earlier"]) controls[name].addEventListener("click", () => turn(-1));
  for (const name of ["next", "later"]) controls[name].addEventListener("click", () => turn(1));
  browser.addEventListener("submit", (event) => event.preventDefault());

  function openFromAddress() {
    const key = /^#key=(.*)$/.exec(location.hash)?.[1];
    if (key === undefined) return false;
    try { openKey = decodeURIComponent(key); } catch { return false; }
    for (const name of ["words", "shard", "of"]) controls[name].value = "";
    show();
    return true;
  }
  window.addEventListener("hashchange", openFromAddress);
  if (!openFromAddress()) show();
})();
