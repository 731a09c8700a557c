// ---- figures -------------------------------------------------------------
const COLOUR = {id: 'var(--id)', ood: 'var(--ood)'}, SHAPE = {id: 'circle', ood: 'square'};
const NAME = {id: 'ID', ood: 'OOD'};
const stepScale = (xs, f) => {
  const positive = xs.filter(v => v > 0), last = Math.max(...xs, 1);
  return symlog(positive.length ? Math.min(...positive) : 1, last, f.inner.left + 6, f.inner.right - 6);
};
const unique = values => [...new Set(values)].sort((a, b) => a - b);

function curves(F) {
  const hidden = new Set();
  const draw = width => {
    const f = frame(width, width < 560 ? 330 : 400, {margin: {right: 52}});
    const xs = unique([...F.series.flatMap(s => s.points.map(p => p.x)), ...F.branches.flatMap(b => b.points.map(p => p.x))]);
    const every = [...F.series, ...F.branches].flatMap(s => s.points);
    const x = stepScale(xs, f), range = percentAxis(Math.max(...every.map(p => p.high)));
    const y = linear(0, range.top, f.inner.bottom, f.inner.top);
    const steps = unique(F.series.flatMap(s => s.points.map(p => p.x)));
    axes(f, x, y, {xTicks: spaced(steps, x, 38), yTicks: range.ticks, yWord: percentWord, xLabel: `${D.objective} step (logarithmic, with 0)`, yLabel: 'success, %'});
    for (const s of F.series.filter(s => !hidden.has(s.key))) {
      const c = COLOUR[s.key], at = (p, k) => [x(p.x), y(p[k])];
      f.node.append(svg('path', {d: area(s.points.map(p => at(p, 'high')), s.points.map(p => at(p, 'low'))), style: {fill: c, opacity: .16}}));
      if (!hidden.has('seeds')) for (const one of s.seeds) f.node.append(svg('path', {d: line(one.map(p => at(p, 'success'))), style: {fill: 'none', stroke: c, 'stroke-width': .8, opacity: .5}}));
      f.node.append(svg('path', {d: line(s.points.map(p => at(p, 'success'))), style: {fill: 'none', stroke: c, 'stroke-width': 2.2}}));
      for (const p of s.points) {
        f.node.append(mark(...at(p, 'success'), SHAPE[s.key], c, false, 3.6));
        f.hits.push({x: x(p.x), y: y(p.success), text: `${D.objective} step ${p.step} · ${s.label}\n${rated(p)}\n${counted(p)}`});
      }
      const end = s.points[s.points.length - 1];
      if (end && !F.branches.some(b => b.from_step >= end.x)) f.node.append(svg('text', {x: x(end.x) + 9, y: y(end.success) + 4, class: 'strong', style: {fill: c, 'font-weight': 600}}, s.label));
      else if (end) f.node.append(svg('text', {x: f.inner.right + 4, y: y(end.success) + 4, class: 'strong', style: {fill: c, 'font-weight': 600}}, s.label));
    }
    for (const b of F.branches.filter(b => !hidden.has(b.key) && !hidden.has(b.role))) {
      const c = COLOUR[b.key], end = b.points[b.points.length - 1];
      f.node.append(svg('path', {d: line(b.points.map(p => [x(p.x), y(p.success)])), style: {fill: 'none', stroke: c, 'stroke-width': 1.5, 'stroke-dasharray': b.role === 'rl' ? '4 3' : '1.5 3'}}));
      f.node.append(svg('line', {x1: x(end.x), x2: x(end.x), y1: y(end.low), y2: y(end.high), style: {stroke: c, 'stroke-width': 1.2}}));
      f.node.append(mark(x(end.x), y(end.success), SHAPE[b.key], c, true, 4.4));
      for (const p of b.points) if (p.step > 0) f.hits.push({x: x(p.x), y: y(p.success), text: `RL${b.role === 'rl' ? '' : ' with a KL term'} from step ${b.from_step}, update ${p.step} · ${NAME[b.key]}\n${rated(p)}\n${counted(p)}`});
    }
    return f;
  };
  const box = chart(draw, F.title);
  const entries = F.series.map(s => ({key: s.key, label: `${D.objective} ${s.label}`, colour: COLOUR[s.key], shape: SHAPE[s.key], line: true}));
  for (const [role, label, dash] of [['rl', 'RL from that step (its end is hollow)', '4 3'], ['rl_kl', 'RL with a KL term', '1.5 3']]) if (F.branches.some(b => b.role === role)) entries.push({key: role, label, colour: 'var(--grey)', shape: 'circle', hollow: true, line: true, dash});
  if (F.series.some(s => s.seeds.length)) entries.push({key: 'seeds', label: 'single seeds', colour: 'var(--grey)', line: true, dash: '1 0'});
  return [legend(entries, hidden, box.redo), box];
}

function branches(F) {
  const panel = key => chart(width => {
    const step = 34, f = frame(width, 52 + step * F.rows.length, {margin: {left: 16 + 6.6 * Math.max(...F.rows.map(r => r.label.length)), right: 132, top: 6, bottom: 46}});
    const every = F.rows.flatMap(r => [r[key].start, r[key].end]).filter(Boolean);
    const low = Math.max(0, Math.floor(Math.min(...every.map(e => e.low)) * 10) / 10), range = percentAxis(Math.max(...every.map(e => e.high), .1));
    const x = linear(low, range.top, f.inner.left, f.inner.right), at = i => f.inner.top + step * (i + .5);
    for (const t of niceTicks(low, range.top, 5)) f.node.append(svg('line', {x1: x(t), x2: x(t), y1: f.inner.top, y2: f.inner.bottom, style: {stroke: 'var(--grid)'}}), svg('text', {x: x(t), y: f.inner.bottom + 16, 'text-anchor': 'middle'}, percentWord(t)));
    f.node.append(svg('text', {x: (f.inner.left + f.inner.right) / 2, y: f.inner.bottom + 35, 'text-anchor': 'middle'}, `${NAME[key]} success, %`));
    F.rows.forEach((r, i) => {
      const {start, end, effect, updates} = r[key], c = COLOUR[key];
      f.node.append(svg('text', {x: f.inner.left - 12, y: at(i) + 4, 'text-anchor': 'end', class: 'strong'}, r.label));
      for (const [s, dy, hollow, word] of [[start, -5, true, 'start'], [end, 5, false, `after ${updates} updates`]]) {
        if (!s) continue;
        f.node.append(svg('line', {x1: x(s.low), x2: x(s.high), y1: at(i) + dy, y2: at(i) + dy, style: {stroke: c, 'stroke-width': 1.2, opacity: .7}}), mark(x(s.success), at(i) + dy, SHAPE[key], c, hollow, 4.2));
        f.hits.push({x: x(s.success), y: at(i) + dy, text: `RL from ${r.label}, ${word} · ${NAME[key]}\n${rated(s)}\n${counted(s)}\nchange ${change(effect)} points`});
      }
      f.node.append(svg('text', {x: width, y: at(i) + 4, 'text-anchor': 'end', class: effect && effect.low * effect.high > 0 ? 'strong' : ''}, change(effect)));
    });
    return f;
  }, `${F.title}, ${NAME[key]}`);
  const key = (word, hollow) => [svg('svg', {viewBox: '0 0 22 12', style: {width: '22px', height: '12px'}}, mark(11, 6, 'square', 'var(--grey)', hollow)), word];
  return [el('div', {class: 'controls'}, el('span', {style: {display: 'inline-flex', 'align-items': 'center', gap: '2px'}}, key('start', true)), el('span', {style: {display: 'inline-flex', 'align-items': 'center', gap: '2px'}}, key('end of the RL budget', false)), el('span', {class: 'muted'}, 'right: change in points [interval]; dark if the interval is clear of 0')),
    el('div', {class: 'panels'}, ['ood', 'id'].map(k => el('div', {}, el('h4', {}, NAME[k]), panel(k))))];
}

function failures(F) {
  const hidden = new Set();
  const boxes = [];
  const panel = P => {
    const box = chart(width => {
      const f = frame(width, 270, {});
      const x = stepScale(P.steps, f), y = linear(0, 1, f.inner.bottom, f.inner.top);
      axes(f, x, y, {xTicks: spaced(P.steps, x, 38), yTicks: niceTicks(0, 1, 5), yWord: percentWord, xLabel: `${D.objective} step`, yLabel: 'share of hands, %'});
      let floor = P.steps.map(() => 0);
      for (const name of Object.keys(F.outcomes)) {
        if (hidden.has(name)) continue;
        const top = floor.map((v, i) => v + P.shares[name][i]);
        f.node.append(svg('path', {d: area(P.steps.map((s, i) => [x(s), y(top[i])]), P.steps.map((s, i) => [x(s), y(floor[i])])), style: {fill: `var(--${name})`, stroke: 'var(--paper)', 'stroke-width': .8}}));
        floor = top;
      }
      P.steps.forEach((s, i) => f.hits.push({x: x(s), y: 0, top: f.inner.top, bottom: f.inner.bottom, text: [`${P.label}, ${D.objective} step ${s}`, ...Object.entries(F.outcomes).map(([k, label]) => `${pct(P.shares[k][i])} % ${label}`)].join('\n')}));
      return Object.assign(f, {mode: 'x'});
    }, `${F.title}, ${P.label}`);
    boxes.push(box);
    return el('div', {}, el('h4', {}, P.label), box);
  };
  const node = el('div', {class: 'panels'}, F.panels.map(panel));
  return [legend(Object.entries(F.outcomes).map(([key, label]) => ({key, label, colour: `var(--${key})`, block: true})), hidden, () => boxes.forEach(b => b.redo())), node];
}

function divergence(F) {
  const hidden = new Set(), palette = ['var(--c2)', 'var(--c3)', 'var(--c4)', 'var(--c5)', 'var(--c6)', 'var(--c7)', 'var(--c8)'];
  const shapes = ['square', 'diamond', 'triangle', 'down', 'circle'];
  const lines = F.lines.map((l, i) => Object.assign(l, l.role === 'sft' ? {key: 'sft', label: D.objective, colour: 'var(--c1)', shape: 'circle'} :
    {key: `${l.role}${l.from_step}`, label: (l.from_step === 0 ? 'RL from the base' : `RL from step ${l.from_step}`) + (l.role === 'rl' ? '' : ', KL term'), colour: palette[i % palette.length], shape: shapes[i % shapes.length]}));
  const over = chart(width => {
    const f = frame(width, 290, {margin: {left: 54}}), shown = lines.filter(l => !hidden.has(l.key));
    const xs = unique(lines.flatMap(l => l.points.map(p => p.x))), steps = unique(lines.filter(l => l.role === 'sft').flatMap(l => l.against.map(p => p.step)));
    const positive = steps.length > 1 ? [0, ...steps, Math.max(...xs)] : xs, x = stepScale(positive, f);
    const high = Math.max(...lines.flatMap(l => l.points.map(p => p.kl)), 1e-6), y = linear(0, high * 1.05, f.inner.bottom, f.inner.top);
    axes(f, x, y, {xTicks: spaced(steps.length > 1 ? steps : [xs[0], xs[xs.length - 1]], x, 38), yTicks: niceTicks(0, high * 1.05, 5), yWord: short, xLabel: 'step (RL: start + update)', yLabel: 'KL, nats per token'});
    for (const l of shown) {
      f.node.append(svg('path', {d: line(l.points.map(p => [x(p.x), y(p.kl)])), style: {fill: 'none', stroke: l.colour, 'stroke-width': l.role === 'sft' ? 2.2 : 1.6}}));
      for (const p of l.points) f.hits.push({x: x(p.x), y: y(p.kl), text: `${l.label}, step ${p.step}\nKL ${short(p.kl)} nats per token`});
    }
    return f;
  }, F.title);
  const against = chart(width => {
    const f = frame(width, 290, {}), shown = lines.filter(l => !hidden.has(l.key));
    const every = lines.flatMap(l => l.against), high = Math.max(...every.map(p => p.kl), 1e-6), range = percentAxis(Math.max(...every.map(p => p.high), .1));
    const x = linear(0, high * 1.03, f.inner.left + 6, f.inner.right), y = linear(0, range.top, f.inner.bottom, f.inner.top);
    axes(f, x, y, {xTicks: niceTicks(0, high * 1.03, width < 420 ? 4 : 6), xWord: short, yTicks: range.ticks, yWord: percentWord, xLabel: 'KL, nats per token', yLabel: 'OOD success, %'});
    for (const l of shown) {
      f.node.append(svg('path', {d: line(l.against.map(p => [x(p.kl), y(p.success)])), style: {fill: 'none', stroke: l.colour, 'stroke-width': 1.4, opacity: .8}}));
      for (const p of l.against) {
        f.node.append(svg('line', {x1: x(p.kl), x2: x(p.kl), y1: y(p.low), y2: y(p.high), style: {stroke: l.colour, 'stroke-width': 1, opacity: .6}}), mark(x(p.kl), y(p.success), l.shape, l.colour, false, 3.4));
        f.hits.push({x: x(p.kl), y: y(p.success), text: `${l.label}, step ${p.step}\nOOD ${rated(p)}\nKL ${short(p.kl)} nats per token${p.fixed === null ? '' : `\n${short(p.fixed)} on the oracle's completions`}`});
      }
    }
    return f;
  }, `${F.title}: OOD against KL`);
  return [legend(lines.map(l => ({key: l.key, label: l.label, colour: l.colour, shape: l.shape, line: true})), hidden, () => { over.redo(); against.redo(); }),
    el('div', {class: 'panels'}, el('div', {}, el('h4', {}, 'KL over steps'), over), el('div', {}, el('h4', {}, 'OOD success against KL'), against))];
}

function ppo(F) {
  const word = (column, v) => column.percent ? pct(v) : minus(v.toFixed(column.digits).replace(/^-(0\.0+)$/, '$1'));
  const run = r => (r.from_step === 0 ? 'base' : `step ${r.from_step}`) + (r.role === 'rl' ? '' : ', KL term');
  return scroller(listing(['RL from', 'updates', 'runs', ...F.columns.map(c => c.label)], F.rows.map(r => [run(r), r.updates, r.seeds, ...F.columns.map(c => {
    const m = r.measures[c.key];
    return m ? `${word(c, m.first)} → ${word(c, m.last)}` : '–';
  })])));
}

function panel(F) {
  const body = el('div'), asked = F.steps.map(s => Object.keys(s.success).length), most = asked.lastIndexOf(Math.max(...asked));
  const gap = g => g ? change(g) : '–';
  const fill = name => {
    const S = F.steps.find(s => String(s.step) === name), rate = key => rated(S.success[key]);
    const cells = rule => F.cells.filter(c => c.rule === rule).map(c => rate(c.eval));
    const ways = F.ways.filter(w => S.success[`id${w.ending}`] || S.success[`ood${w.ending}`]).map(w => [w.label, rate(`id${w.ending}`), rate(`ood${w.ending}`)]);
    for (const [key, label] of [['sampled_minus_greedy', 'sampled minus greedy, points'], ['tries5_minus_independent5', '5 tries with feedback minus 5 samples, points']]) if (S.differences.id[key] || S.differences.ood[key]) ways.push([label, gap(S.differences.id[key]), gap(S.differences.ood[key])]);
    for (let k = 1; k <= Math.max(...['id', 'ood'].map(s => (S.pass_at_k[s] || []).length)); k++) ways.push([`pass@${k}`, ...['id', 'ood'].map(s => { const p = (S.pass_at_k[s] || [])[k - 1]; return p ? `${pct(p.mean)} % [${pct(p.low)}, ${pct(p.high)}]` : '–'; })]);
    for (let i = 0; i < Math.max(...['id', 'ood'].map(s => (S.majority_at_k[s] || []).length)); i++) if (((S.majority_at_k.id || S.majority_at_k.ood)[i] || {}).k > 1) ways.push([`majority@${(S.majority_at_k.id || S.majority_at_k.ood)[i].k}`, ...['id', 'ood'].map(s => { const v = (S.majority_at_k[s] || [])[i]; return v ? `${pct(v.mean)} %` : '–'; })]);
    for (const {key, label} of F.losses) if (S.losses[key].id !== null || S.losses[key].ood !== null) ways.push([label, short(S.losses[key].id), short(S.losses[key].ood)]);
    const rules = [...new Set(F.cells.map(c => c.rule))];
    body.replaceChildren(el('h4', {}, 'Greedy, by rule and by sampler of hands'), ...scroller(listing(['', 'ID sampler', 'OOD sampler'], rules.map(r => [r, ...cells(r)]))),
      el('h4', {style: {'margin-top': '14px'}}, 'By way of answering'), ...scroller(listing(['', 'ID', 'OOD'], ways)));
  };
  const steps = menu(`${D.objective} step `, F.steps.map(s => String(s.step)), fill);
  steps.select.value = String(F.steps[most].step);
  fill(steps.select.value);
  return [el('div', {class: 'controls'}, steps.node, el('span', {class: 'muted'}, 'five tries are measured at few steps')), body];
}

function controlled(F) {  // one line and one row for each arm
  const COLOURS = ['var(--c1)', 'var(--c2)', 'var(--c3)', 'var(--c4)', 'var(--c5)', 'var(--ink)', 'var(--grey)'], hidden = new Set(), boxes = [];
  const colour = arm => COLOURS[F.lines.findIndex(l => l.arm === arm) % COLOURS.length], first = F.arms[0];
  const panel = name => {
    const box = chart(width => {
      const f = frame(width, 300, {}), shown = F.lines.map(l => ({arm: l.arm, seeds: l.seeds, points: l.points.filter(p => p[name])}));
      const every = shown.flatMap(l => l.points), xs = unique(every.map(p => p.x)), range = percentAxis(Math.max(...every.map(p => p[name].high)));
      const x = linear(0, Math.max(...xs), f.inner.left, f.inner.right), y = linear(0, range.top, f.inner.bottom, f.inner.top), at = (p, k) => [x(p.x), y(p[name][k])];
      axes(f, x, y, {xTicks: niceTicks(0, Math.max(...xs), 5), xWord: short, yTicks: range.ticks, yWord: percentWord, xLabel: F.x, yLabel: 'success, %'});
      for (const l of shown.filter(l => l.points.length && !hidden.has(l.arm))) {
        const c = colour(l.arm);
        f.node.append(svg('path', {d: area(l.points.map(p => at(p, 'high')), l.points.map(p => at(p, 'low'))), style: {fill: c, opacity: .12}}));
        for (const one of l.seeds) f.node.append(svg('path', {d: line(one.filter(p => p[name]).map(p => at(p, 'success'))), style: {fill: 'none', stroke: c, 'stroke-width': .8, opacity: .5}}));
        f.node.append(svg('path', {d: line(l.points.map(p => at(p, 'success'))), style: {fill: 'none', stroke: c, 'stroke-width': 2.2}}));
        for (const p of l.points) { f.node.append(mark(...at(p, 'success'), 'circle', c, false, 3.2)); f.hits.push({x: x(p.x), y: y(p[name].success), text: `${l.arm}, step ${p.step} · ${NAME[name]}\n${rated(p[name])}\n${counted(p[name])}`}); }
      }
      return f;
    }, `${F.title}, ${NAME[name]}`);
    boxes.push(box);
    return el('div', {}, el('h4', {}, NAME[name]), box);
  };
  const names = ['id', 'ood'].filter(n => F.lines.some(l => l.points.some(p => p[n])));
  const kl = k => k === null ? '–' : k.low === null ? short(k.mean) : `${short(k.mean)} [${short(k.low)}, ${short(k.high)}]`;
  const head = ['arm', ...(F.tuned ? [F.tuned] : []), 'seeds', 'at step', F.unit, 'share', ...names.flatMap(n => [NAME[n], `${NAME[n]} over ${first}`, `${NAME[n]} gained`]), 'KL to the base'];
  const rows = F.rows.map(r => [r.arm, ...(F.tuned ? [short(r.chosen)] : []), r.seeds, unique(r.steps).join(', '), short(r.quantity), `${short(r.ratio)}${r.matched === false ? ' not matched' : ''}`, ...names.flatMap(n => [rated(r[n]), r.arm === first ? '–' : change(r.over[n]), change(r.gain[n])]), kl(r.kl)]);
  const tries = F.tuned ? [el('h4', {style: {'margin-top': '14px'}}, `What ${F.tuned} was chosen by: success on ${F.chosen_by}`), ...scroller(listing(['arm', F.tuned, 'success', ''], F.rows.flatMap(r => r.grid.map(g => [r.arm, short(g.value), rated(g.success), g.value === r.chosen ? 'chosen' : '']))))] : [];
  return [...(F.missing.length ? [el('p', {class: 'absence'}, `Not finished: ${F.missing.join(', ')}.`)] : []), ...(F.lines.length ? [legend(F.lines.map(l => ({key: l.arm, label: l.arm, colour: colour(l.arm), shape: 'circle', line: true})), hidden, () => boxes.forEach(b => b.redo())),
    el('div', {class: 'panels'}, names.map(panel)), ...scroller(listing(head, rows)), ...tries] : [])];
}
