function profile(F) {
  const colours = {'': 'var(--c1)', _null: 'var(--grey)', _floor: 'var(--c5)'}, dashes = {'': 'none', _null: '5 3', _floor: '2 2'}, hidden = new Set();
  const draw = (series, xLabel, ticks, where) => chart(width => {
    const f = frame(width, 280, {}), x = linear(0, Math.max(...ticks), f.inner.left, f.inner.right);
    const high = Math.max(...series.flatMap(s => s.points.map(p => p.high))), top = Math.min(90, high > 30 ? Math.ceil(high / 15) * 15 : Math.ceil(high / 5) * 5 || 5);
    const y = linear(0, top, f.inner.bottom, f.inner.top);
    axes(f, x, y, {xTicks: ticks, xWord: percentWord, yTicks: top > 30 ? [0, 15, 30, 45, 60, 75, 90].filter(t => t <= top) : niceTicks(0, top, 5), yWord: String, xLabel, yLabel: 'angle, degrees'});
    for (const s of series.filter(s => !hidden.has(s.key))) {
      const c = colours[s.key], at = k => s.points.map(p => [x(p.x), y(p[k])]);
      f.node.append(svg('path', {d: area(at('high'), at('low')), style: {fill: c, opacity: .15}}), svg('path', {d: line(at('y')), style: {fill: 'none', stroke: c, 'stroke-width': 2, 'stroke-dasharray': dashes[s.key]}}));
      for (const p of s.points) f.hits.push({x: x(p.x), y: y(p.y), text: `${s.label}, ${where(p.x)}\n${p.y.toFixed(1)}° (middle 80 %: ${p.low.toFixed(1)} to ${p.high.toFixed(1)}°)`});
    }
    return f;
  }, F.title);
  const single = draw(F.series, 'position in the spectrum, % (leading → trailing)', [0, .2, .4, .6, .8, 1], x => `${percentWord(x - .025)} to ${percentWord(x + .025)} % of the spectrum`);
  const together = F.by_top.length && draw(F.by_top, 'leading directions taken, %', [0, .1, .2, .3, .4, .5], x => `leading ${percentWord(x)} %`);
  return [legend(F.series.concat(F.by_top.filter(t => !F.series.some(s => s.key === t.key))).map(s => ({key: s.key, label: s.label, colour: colours[s.key], line: true, dash: dashes[s.key]})), hidden, () => { single.redo(); if (together) together.redo(); }),
    together ? el('div', {class: 'panels'}, el('div', {}, el('h4', {}, 'Single directions'), single), el('div', {}, el('h4', {}, 'Mean principal angle of the leading ones'), together)) : single];
}

function plane(F) {
  const palette = ['var(--c1)', 'var(--c2)', 'var(--c4)', 'var(--c3)', 'var(--c5)', 'var(--c8)', 'var(--c6)', 'var(--c7)'];
  const shapes = ['circle', 'square', 'triangle', 'diamond', 'down'], special = {interpolate: ['var(--ink)', 'circle'], noise: ['var(--grey)', 'cross'], none: ['var(--ink)', 'square']};
  const style = {}, hidden = new Set();
  let next = 0;
  for (const p of F.groups.flatMap(g => g.points)) if (!style[p.kind]) {
    if (special[p.kind]) style[p.kind] = special[p.kind];
    else { style[p.kind] = [palette[next % palette.length], shapes[next % shapes.length]]; next++; }
  }
  const rows = new Map(), lit = name => { for (const [k, row] of rows) row.classList.toggle('lit', k === name); };
  let pointed = null, G = F.groups[0], numbers;
  const count = () => { numbers = new Map(G.points.map((p, i) => [p.edit, i + 1])); };
  const over = p => p.over_interpolation ? change(p.over_interpolation) : p.over_interpolation_why ? 'not comparable' : '–';
  count();
  const box = chart(width => {
    const f = frame(width, width < 560 ? 380 : 520, {margin: {right: 20}});
    const span = key => { const all = [...G.points, ...G.marks].map(p => p[key]); const a = Math.min(...all.map(s => s.low)), b = Math.max(...all.map(s => s.high)), pad = .03 * (b - a) + .005; return [Math.max(-.02, a - (key === 'ood' ? 2.5 : 1) * pad), Math.min(1.005, b + pad)]; };
    const [x0, x1] = span('id'), [y0, y1] = span('ood');
    const x = linear(x0, x1, f.inner.left, f.inner.right), y = linear(y0, y1, f.inner.bottom, f.inner.top);
    axes(f, x, y, {xTicks: niceTicks(x0, x1, width < 560 ? 5 : 9), xWord: percentWord, yTicks: niceTicks(y0, y1, 7), yWord: percentWord, xLabel: 'ID success, %', yLabel: 'OOD success, %'});
    const by = new Map(G.points.map(p => [p.edit, p]));
    if (!hidden.has('interpolate')) f.node.append(svg('path', {d: line(G.path.map(k => by.get(k)).map(p => [x(p.id.success), y(p.ood.success)])), style: {fill: 'none', stroke: 'var(--ink)', 'stroke-width': 1.4, 'stroke-dasharray': '6 4', opacity: .7}}));
    const shown = G.points.filter(p => !hidden.has(p.kind));
    for (const m of G.marks) {
      const px = x(m.id.success), py = y(m.ood.success);
      f.node.append(svg('path', {d: `M${x(m.id.low)} ${py}H${x(m.id.high)}M${px} ${y(m.ood.low)}V${y(m.ood.high)}`, style: {stroke: 'var(--ink)', opacity: .38}}), mark(px, py, 'diamond', 'var(--ink)', true, 6),
        svg('text', {x: px + 11, y: py - 8, class: 'strong halo', style: {'font-weight': 600}}, m.label));
      f.hits.push({x: px, y: py, enter: () => lit(null), text: `${m.label}, as its run measured it\nID ${rated(m.id)}\nOOD ${rated(m.ood)}`});
    }
    for (const p of shown) {
      const [c] = style[p.kind], px = x(p.id.success), py = y(p.ood.success);
      f.node.append(svg('path', {d: `M${x(p.id.low)} ${py}H${x(p.id.high)}M${px} ${y(p.ood.low)}V${y(p.ood.high)}`, style: {stroke: c, 'stroke-width': 1, opacity: pointed === p.edit ? 1 : .38}}));
    }
    for (const p of shown) {
      const [c, shape] = style[p.kind], px = x(p.id.success), py = y(p.ood.success), big = pointed === p.edit;
      const symbol = mark(px, py, shape, c, p.control, p.edit === 'none' ? 8 : big ? 7 : 4.8);
      if (p.edit === 'none') symbol.style.fill = 'none';  // a frame: others may lie on it
      f.node.append(symbol);
      f.hits.push({x: px, y: py, enter: () => lit(p.edit), leave: () => lit(null), text: `${numbers.get(p.edit)}: ${p.edit}${p.control ? ' (control)' : ''}\nID ${rated(p.id)}\nOOD ${rated(p.ood)}\nOOD regain ${change(p.ood_regain)}\nID loss ${change(p.id_loss)}\nover interpolation at equal ID ${over(p)}${p.matched.map(m => `\nover ${m.control.split(' ')[0]} as far: OOD ${change(m.ood)}, ID ${change(m.id)}`).join('')}`});
    }
    const taken = shown.map(p => [x(p.id.success) - 5, y(p.ood.success) - 5, 10, 10]);
    for (const p of shown) {  // the number of its row; words for the ends
      const px = x(p.id.success), py = y(p.ood.success), named = p.edit === 'none' || p.edit === G.base;
      const word = p.edit === 'none' ? `${numbers.get(p.edit)} ${G.label.split(' → ')[1] || 'none'}` : p.edit === G.base ? `${numbers.get(p.edit)} base` : pointed === p.edit ? `${numbers.get(p.edit)} ${p.edit}` : String(numbers.get(p.edit));
      const wide = 6.8 * word.length, spots = [[7, -6], [-7 - wide, -6], [7, 15], [-7 - wide, 15], [-wide / 2, -11], [-wide / 2, 21], [12, 4], [-12 - wide, 4], [12, -18], [-12 - wide, -18], [12, 27], [-12 - wide, 27]].map(([dx, dy]) => [px + dx, py + dy - 11, wide, 13]);
      const cost = b => (b[0] < f.inner.left || b[0] + b[2] > width) * 400 + taken.reduce((sum, t) => sum + Math.max(0, Math.min(b[0] + b[2], t[0] + t[2]) - Math.max(b[0], t[0])) * Math.max(0, Math.min(b[1] + b[3], t[1] + t[3]) - Math.max(b[1], t[1])), 0);
      const best = spots.reduce((a, b) => cost(b) < cost(a) ? b : a);
      taken.push(best);
      f.node.append(svg('text', {x: best[0], y: best[1] + 11, class: 'strong halo', style: {'font-weight': named ? 600 : 400, 'font-size': named ? '12px' : '11px'}}, word));
    }
    return f;
  }, F.title);
  const entries = Object.entries(style).map(([kind, [colour, shape]]) => { const one = F.groups.flatMap(g => g.points).find(p => p.kind === kind); return {key: kind, label: kind === 'none' ? 'none (unedited)' : kind === 'interpolate' ? 'interpolate (the control line)' : kind, colour, shape, hollow: one.control, line: kind === 'interpolate', dash: '6 4'}; });
  const columns = [['no.', 'number', p => numbers.get(p.edit)], ['edit', 'edit', p => p.edit], ['ID %', 'id', p => p.id.success], ['OOD %', 'ood', p => p.ood.success], ['OOD regain', 'ood_regain', p => p.ood_regain && p.ood_regain.mean], ['ID loss', 'id_loss', p => p.id_loss && p.id_loss.mean], ['OOD over interpolation, equal ID', 'over_interpolation', p => p.over_interpolation && p.over_interpolation.mean], [`to ${G.label.split(' → ')[1] || D.objective}`, 'distance_to_sft', p => p.distance_to_sft], ['to base', 'distance_to_base', p => p.distance_to_base]];
  const body = el('tbody'), head = el('tr'), reach = Math.max(...F.groups.flatMap(g => g.points).map(p => p.distance_to_base || 0));
  const fill = points => {
    body.replaceChildren(...points.map(p => {
      const row = el('tr', {onpointerenter: () => { pointed = p.edit; box.redo(); }, onpointerleave: () => { pointed = null; box.redo(); }}, el('td', {class: 'right'}, numbers.get(p.edit)), el('td', {}, el('code', {}, p.edit), p.control && el('span', {class: 'muted'}, ' control')),
        el('td', {class: 'right'}, pct(p.id.success)), el('td', {class: 'right'}, pct(p.ood.success)), ['ood_regain', 'id_loss'].map(k => el('td', {class: 'right'}, change(p[k]))), el('td', {class: p.over_interpolation ? 'right' : 'right muted'}, over(p)), ['distance_to_sft', 'distance_to_base'].map(k => el('td', {class: 'right'}, p[k] === null ? '–' : fixed(p[k], reach))));
      rows.set(p.edit, row);
      return row;
    }));
  };
  columns.forEach(([label, , value], i) => {
    const cell = el('th', {class: i === 1 ? '' : 'right'}, el('button', {type: 'button', onclick: () => {
      const up = cell.getAttribute('aria-sort') === 'descending';
      for (const other of head.children) other.removeAttribute('aria-sort');
      cell.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const rank = v => v === null || v === undefined ? -Infinity : v;
      fill(G.points.slice().sort((a, b) => { const p = rank(value(a)), q = rank(value(b)); return (p < q ? -1 : p > q ? 1 : 0) * (up ? 1 : -1); }));
    }}, label));
    head.append(cell);
  });
  const beside = el('div');
  const pairs = () => {
    const found = G.points.flatMap(p => p.matched.map(m => [el('code', {}, p.edit), m.control.split(' ')[0], change(m.ood), change(m.id)]));
    beside.replaceChildren(...(found.length ? [el('h4', {}, 'Edits against controls that go exactly as far'), ...scroller(listing(['edit', 'control', 'OOD, edit minus control', 'ID, edit minus control'], found, 2))] : []));
  };
  pairs();
  fill(G.points);
  const keys = legend(entries, hidden, box.redo);
  keys.append(el('span', {class: 'muted'}, 'filled: edits; hollow: controls; numbers: rows of the table'));
  const pick = i => { G = F.groups[i]; count(); rows.clear(); for (const other of head.children) other.removeAttribute('aria-sort'); fill(G.points); pairs(); box.redo(); };
  return [el('div', {class: 'controls'}, F.groups.length > 1 ? choice(F.groups.map((g, i) => [i, g.label]), 0, pick) : el('span', {class: 'muted'}, `from ${G.label.split(' → ').reverse().join(' toward ')}`)), keys, box,
    el('div', {style: {'margin-top': '14px'}}, scroller(el('table', {}, el('thead', {}, head), body))), el('div', {style: {'margin-top': '18px'}}, beside),
    el('p', {class: 'muted', style: {'font-size': '12px', 'margin-top': '6px'}}, 'Differences in points [95 % interval]; not comparable: no interpolation of more ID and another of less; distances are Frobenius norms of the difference of all edited weights. Press a heading to sort.')];
}

