// Every text of the study is written as a text node; nothing here parses it.
const D = JSON.parse(document.getElementById('data').textContent);
const page = document.getElementById('page');
const tip = document.getElementById('tip');
page.textContent = '';

// ---- elements ------------------------------------------------------------
function make(space, tag, attributes, kids) {
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === 'style') for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  for (const kid of kids.flat()) {
    if (kid === null || kid === undefined || kid === false) continue;
    node.append(kid instanceof Node ? kid : String(kid));
  }
  return node;
}
const el = (tag, attributes, ...kids) => make(null, tag, attributes, kids);
const svg = (tag, attributes, ...kids) => make('http://www.w3.org/2000/svg', tag, attributes, kids);

// ---- words for numbers ---------------------------------------------------
const minus = text => text.replace(/^-/, '−').replace(/([\[ ,])-/g, '$1−');
const tenths = value => (100 * value + (value < 0 ? -1e-9 : 1e-9)).toFixed(1).replace(/^-0\.0$/, '0.0');
const pct = rate => rate === null || rate === undefined ? '–' : tenths(rate);
const short = value => value === null || value === undefined ? '–' : Math.abs(value) >= 100 ? value.toFixed(0) : minus(String(+value.toPrecision(3)));
const signed = value => minus((value > 0 ? '+' : '') + tenths(value));
const rated = s => s ? `${pct(s.success)} % [${pct(s.low)}, ${pct(s.high)}]` : '–';
const counted = s => `n = ${s.n} hands${s.problems ? ` of ${s.problems} problems` : ''}, ${s.seeds} seed${s.seeds > 1 ? 's' : ''}`;
const change = e => e ? `${signed(e.mean)} [${signed(e.low).replace('+', '')}, ${signed(e.high).replace('+', '')}]` : '–';
const fixed = (value, top) => value === null ? '–' : minus(value.toFixed(top >= 10 ? 1 : top >= 1 ? 2 : 3));
const nice = text => String(text).replace(/(^|[\s\[(])-(?=[\d.])/g, '$1−').replace(/ (%|points|°)/g, '\u00a0$1');
const prose = text => nice(text).split('`').map((part, i) => i % 2 ? el('code', {}, part) : part);
function measured(claim) {
  if (claim.measured === null) return '–';
  const rate = /^difference/.test(claim.unit), share = claim.unit === 'share';
  const every = [claim.measured, ...(claim.interval || [])].filter(v => v !== null);
  const digits = Math.max(...every.map(Math.abs)) < .1 ? 4 : 2;  // one precision for a number and its interval
  const word = v => rate ? signed(v) : share ? minus(tenths(v)) : minus(v.toFixed(digits));
  const unit = rate ? ' points' : share ? ' %' : claim.unit === 'radians' ? ' rad' : '';
  const ends = claim.interval ? ` [${claim.interval.map(v => v === null ? '?' : word(v).replace('+', '')).join(', ')}]` : '';
  return word(claim.measured) + unit + ends;
}

// ---- tables --------------------------------------------------------------
function scroller(table) {  // says so where a table is wider than the page
  const hint = el('p', {class: 'hint muted'}, 'Wider than the page: scroll the table sideways →'), box = el('div', {class: 'scroll', tabindex: 0}, table);
  new ResizeObserver(() => { hint.style.display = box.scrollWidth > box.clientWidth + 1 ? '' : 'none'; }).observe(box);
  return [hint, box];
}
const listing = (head, rows, right = 1) => el('table', {}, el('thead', {}, el('tr', {}, head.map((h, i) => el('th', {class: i >= right ? 'right' : ''}, h)))),
  el('tbody', {}, rows.map(r => el('tr', {}, r.map((v, i) => el('td', {class: i >= right ? 'right' : ''}, v))))));

// ---- tooltip -------------------------------------------------------------
function showTip(x, y, text) {
  tip.textContent = text;
  tip.style.display = 'block';
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(6, Math.min(innerWidth - box.width - 6, x + 14)) + 'px';
  tip.style.top = (y + box.height + 20 > innerHeight ? y - box.height - 12 : y + 14) + 'px';
}
const hideTip = () => { tip.style.display = 'none'; };
addEventListener('scroll', hideTip, {passive: true});

// ---- charts --------------------------------------------------------------
const redraws = [];
function chart(draw, label) {  // draw(width) -> {node, hits}; redrawn to fit
  const box = el('div', {class: 'chart'});
  let last = 0;
  const redo = force => {
    const width = Math.round(box.clientWidth);
    if (!width || (!force && width === last)) return;
    last = width;
    const {node, hits, mode} = draw(width);
    node.setAttribute('viewBox', `0 0 ${width} ${node.dataset.height}`);
    node.setAttribute('role', 'img');
    node.setAttribute('aria-label', label);
    box.replaceChildren(node);
    if (hits && hits.length) follow(node, hits, mode);
  };
  new ResizeObserver(() => requestAnimationFrame(() => redo(false))).observe(box);
  redraws.push(() => redo(true));
  box.redo = () => redo(true);
  return box;
}
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => redraws.forEach(f => f()));

function follow(node, hits, mode) {  // the nearest mark speaks
  const ring = svg('circle', {r: 7, style: {fill: 'none', stroke: 'var(--ink)', 'stroke-width': 1.5, display: 'none', 'pointer-events': 'none'}});
  const guide = svg('line', {style: {stroke: 'var(--ink)', 'stroke-width': 1, display: 'none', 'pointer-events': 'none'}});
  let pressed = null;
  node.append(ring, guide);
  node.addEventListener('pointermove', event => {
    const box = node.getBoundingClientRect(), scale = node.viewBox.baseVal.width / box.width;
    const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
    let best = null, least = Infinity;
    for (const hit of hits) {
      const gap = mode === 'x' ? Math.abs(hit.x - px) : Math.hypot(hit.x - px, hit.y - py);
      if (gap < least) { least = gap; best = hit; }
    }
    if (!best || least > (best.reach || 48)) { leave(); return; }
    ring.style.display = mode ? 'none' : '';
    ring.setAttribute('cx', best.x); ring.setAttribute('cy', best.y);
    if (mode === 'x') {
      guide.style.display = '';
      for (const [k, v] of [['x1', best.x], ['x2', best.x], ['y1', best.top], ['y2', best.bottom]]) guide.setAttribute(k, v);
    }
    if (best.enter) best.enter();
    node.style.cursor = best.press ? 'pointer' : '';
    pressed = best.press;
    showTip(event.clientX, event.clientY, best.text);
  });
  node.addEventListener('click', () => { if (pressed) pressed(); });
  const leave = () => { pressed = null; ring.style.display = guide.style.display = 'none'; hideTip(); if (hits[0].leave) hits[0].leave(); };
  node.addEventListener('pointerleave', leave);
}

const linear = (a, b, from, to) => value => from + (value - a) / ((b - a) || 1) * (to - from);
function symlog(unit, last, from, to) {  // linear at 0, logarithmic beyond
  const t = v => Math.log10(1 + v / unit);
  return value => from + t(value) / (t(last) || 1) * (to - from);
}
function niceTicks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw || 1));
  const step = [1, 2, 5, 10].map(m => m * power).find(v => v >= raw) || power;
  const ticks = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + 1e-9 * step; v += step) ticks.push(+v.toPrecision(12));
  return ticks;
}
function spaced(values, place, gap) {  // drop labels that would touch; keep the ends
  const kept = [];
  for (const v of values) if (!kept.length || place(v) - place(kept[kept.length - 1]) >= gap) kept.push(v);
  const last = values[values.length - 1];
  if (kept.length && kept[kept.length - 1] !== last) { if (kept.length > 1) kept.pop(); kept.push(last); }
  return kept;
}
function frame(width, height, options) {
  const m = Object.assign({top: 10, right: 14, bottom: 42, left: 46}, options.margin);
  const node = svg('svg', {}), inner = {left: m.left, right: width - m.right, top: m.top, bottom: height - m.bottom};
  node.dataset.height = height;
  return {node, inner, hits: []};
}
function axes(f, x, y, options) {
  const {left, right, top, bottom} = f.inner;
  for (const tick of options.yTicks) {
    f.node.append(svg('line', {x1: left, x2: right, y1: y(tick), y2: y(tick), style: {stroke: 'var(--grid)'}}),
      svg('text', {x: left - 8, y: y(tick) + 4, 'text-anchor': 'end'}, options.yWord(tick)));
  }
  f.node.append(svg('line', {x1: left, x2: right, y1: bottom, y2: bottom, style: {stroke: 'var(--muted)'}}));
  for (const tick of options.xTicks) {
    f.node.append(svg('line', {x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 4, style: {stroke: 'var(--muted)'}}),
      svg('text', {x: x(tick), y: bottom + 17, 'text-anchor': 'middle'}, options.xWord ? options.xWord(tick) : String(tick)));
  }
  f.node.append(svg('text', {x: (left + right) / 2, y: bottom + 36, 'text-anchor': 'middle'}, options.xLabel));
  if (options.yLabel) f.node.append(svg('text', {transform: `translate(10 ${(top + bottom) / 2}) rotate(-90)`, 'text-anchor': 'middle'}, options.yLabel));
}
const line = points => points.map((p, i) => `${i ? 'L' : 'M'}${p[0].toFixed(2)} ${p[1].toFixed(2)}`).join('');
const area = (up, down) => line(up) + line(down.slice().reverse()).replace('M', 'L') + 'Z';
const SHAPES = {
  circle: r => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
  square: r => `M${-.9 * r} ${-.9 * r}h${1.8 * r}v${1.8 * r}h${-1.8 * r}Z`,
  diamond: r => `M0 ${-1.3 * r}L${1.3 * r} 0L0 ${1.3 * r}L${-1.3 * r} 0Z`,
  triangle: r => `M0 ${-1.25 * r}L${1.15 * r} ${.85 * r}H${-1.15 * r}Z`,
  down: r => `M0 ${1.25 * r}L${1.15 * r} ${-.85 * r}H${-1.15 * r}Z`,
  cross: r => `M${-r} ${-r}L${r} ${r}M${-r} ${r}L${r} ${-r}`,
  plus: r => `M0 ${-1.2 * r}V${1.2 * r}M${-1.2 * r} 0H${1.2 * r}`,
};
function mark(x, y, shape, colour, hollow, r = 4) {
  return svg('path', {transform: `translate(${x} ${y})`, d: SHAPES[shape](r), style: {fill: hollow ? 'var(--paper)' : colour, stroke: colour, 'stroke-width': 1.6}});
}
const percentAxis = high => { const top = Math.min(1, Math.ceil((high + .005) * 10) / 10); return {top, ticks: niceTicks(0, top, 5)}; };
const percentWord = v => `${Math.round(100 * v)}`;

// ---- controls ------------------------------------------------------------
function legend(entries, hidden, redo) {
  return el('div', {class: 'controls legend'}, entries.map(e => {
    const key = svg('svg', {viewBox: '0 0 22 12'}, e.line && svg('line', {x1: 0, x2: 22, y1: 6, y2: 6, style: {stroke: e.colour, 'stroke-width': 2, 'stroke-dasharray': e.dash || 'none'}}),
      e.block && svg('rect', {x: 5, y: 0, width: 12, height: 12, rx: 2, style: {fill: e.colour}}), e.shape && mark(11, 6, e.shape, e.colour, e.hollow));
    const button = el('button', {type: 'button', 'aria-pressed': !hidden.has(e.key), onclick: () => {
      hidden.has(e.key) ? hidden.delete(e.key) : hidden.add(e.key);
      button.setAttribute('aria-pressed', !hidden.has(e.key));
      redo();
    }}, key, e.label);
    return button;
  }));
}
function choice(options, chosen, pick) {
  const box = el('div', {class: 'choice', role: 'group'});
  for (const [value, label] of options) box.append(el('button', {type: 'button', 'aria-pressed': value === chosen, onclick: event => {
    for (const b of box.children) b.setAttribute('aria-pressed', b === event.currentTarget);
    pick(value);
  }}, label));
  return box;
}
function menu(label, options, pick) {
  const select = el('select', {onchange: () => pick(select.value)}, options.map(o => el('option', {value: o}, o)));
  return {select, node: el('label', {}, label, select)};
}
// ---- figures -------------------------------------------------------------
let number = 0;
function figure(name, build) {
  const found = D.figures[name];
  const node = el('figure', {id: name});
  const title = found ? found.title : TITLES[name];
  node.append(el('h3', {}, el('span', {class: 'number'}, `Figure ${++number}. `), title));
  if (!found) node.append(el('p', {class: 'absence'}, `Not run: the study has no data for this figure (${NEEDS[name]}).`));
  else { node.append(...build(found)); node.append(el('figcaption', {}, prose(`${D.size}; ${found.note}`))); }
  page.append(node);
}

const CIVIDIS = [[0, 34, 78], [41, 64, 107], [87, 92, 109], [125, 124, 120], [166, 157, 117], [210, 193, 98], [254, 232, 56]];
const mix = (a, b, t) => a.map((v, i) => v + (b[i] - v) * t);
function ramp(t) { const p = Math.max(0, Math.min(1, t)) * (CIVIDIS.length - 1), i = Math.min(Math.floor(p), CIVIDIS.length - 2); return mix(CIVIDIS[i], CIVIDIS[i + 1], p - i); }
function diverge(t) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue('--middle').trim();
  const middle = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
  return t < 0 ? mix(middle, [33, 102, 172], Math.min(1, -t)) : mix(middle, [200, 78, 20], Math.min(1, t));
}
const rgb = c => `rgb(${c.map(Math.round).join(',')})`;
const dark = c => .299 * c[0] + .587 * c[1] + .114 * c[2] < 140;

function heatmap(F) {
  const state = {comparison: 0, quantity: Object.keys(F.quantities)[0], show: 'excess'};
  const box = chart(width => {
    const C = F.comparisons[state.comparison], Q = F.quantities[state.quantity], grids = C.grids[state.quantity], grid = grids[state.show] || grids.measured;
    const cellHeight = Math.max(13, Math.min(34, 420 / C.layers.length)), tall = cellHeight * C.layers.length;
    const f = frame(width, tall + 76, {margin: {left: 56, right: 2, top: 26, bottom: 50}});
    const wide = (f.inner.right - f.inner.left) / C.modules.length;
    const flat = (state.show === 'excess' ? grid : [...grids.measured, ...grids.null]).flat().filter(v => v !== null);
    const top = Math.max(...flat.map(Math.abs), 1e-12), low = state.show === 'excess' ? -top : Math.min(0, ...flat);
    const paint = v => state.show === 'excess' ? diverge(v / top) : ramp((v - low) / (top - low));
    C.modules.forEach((m, j) => f.node.append(svg('text', {x: f.inner.left + wide * (j + .5), y: 17, 'text-anchor': 'middle', class: 'strong'}, m.length * 7 > wide ? m.slice(0, Math.max(1, Math.floor(wide / 7) - 1)) + '…' : m)));
    C.layers.forEach((layer, i) => {
      if (cellHeight >= 16 || i % 2 === 0) f.node.append(svg('text', {x: f.inner.left - 8, y: f.inner.top + cellHeight * (i + .5) + 4, 'text-anchor': 'end'}, i === 0 ? `layer ${layer}` : layer));
      C.modules.forEach((module, j) => {
        const v = grid[i][j], cx = f.inner.left + wide * (j + .5), cy = f.inner.top + cellHeight * (i + .5);
        const c = v === null ? null : paint(v);
        f.node.append(svg('rect', {x: f.inner.left + wide * j + .5, y: f.inner.top + cellHeight * i + .5, width: wide - 1, height: cellHeight - 1, style: {fill: c ? rgb(c) : 'none', stroke: c ? 'none' : 'var(--rule)'}}));
        if (c && wide > 40 && cellHeight > 17) f.node.append(svg('text', {x: cx, y: cy + 4, 'text-anchor': 'middle', style: {fill: dark(c) ? '#fff' : '#111', 'font-size': '11.5px'}}, fixed(v, top)));
        f.hits.push({x: cx, y: cy, reach: Math.hypot(wide, cellHeight) / 2, press: F.press && (() => F.press(layer, module)), text: `layer ${layer}, ${module}\nmeasured ${short(grids.measured[i][j])} ${Q.unit}\nnull ${short(grids.null[i][j])} ${Q.unit}\nexcess ${short(grids.excess[i][j])} ${Q.unit}${grids.floor ? `\nfloor ${short(grids.floor[i][j])} ${Q.unit}` : ''}`});
      });
    });
    const barWide = Math.min(280, width - 140), from = f.inner.left, y0 = f.inner.bottom + 14;
    for (let k = 0; k < 60; k++) f.node.append(svg('rect', {x: from + barWide * k / 60, y: y0, width: barWide / 60 + .6, height: 10, style: {fill: rgb(paint(low + (top - low) * (k + .5) / 60))}}));
    for (const [t, anchor] of [[0, 'start'], [.5, 'middle'], [1, 'end']]) f.node.append(svg('text', {x: from + barWide * t, y: y0 + 25, 'text-anchor': anchor}, `${fixed(low + (top - low) * t, top)}${t === 1 ? (Q.unit === '°' ? '' : '\u00a0') + Q.unit : ''}`));
    return Object.assign(f, {mode: 'cell'});
  }, F.title);
  const pick = key => value => { state[key] = value; box.redo(); };
  return [el('div', {class: 'controls'}, F.comparisons.length > 1 && choice(F.comparisons.map((c, i) => [i, c.label]), 0, pick('comparison')),
    choice(Object.entries(F.quantities).map(([k, q]) => [k, q.label]), state.quantity, pick('quantity')),
    choice([['measured', 'measured'], ['null', 'null'], ...(F.comparisons.some(c => Object.values(c.grids).some(g => g.floor)) ? [['floor', 'floor']] : []), ['excess', 'measured − null']], state.show, pick('show')),
    F.comparisons.length === 1 && el('span', {class: 'muted'}, F.comparisons[0].label)), box];
}
