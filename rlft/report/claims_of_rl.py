"""Claims 6 to 12: what reinforcement learning does from each start.

Starts are named by where they lie in the SFT run (see PLACES; the base paper's
windows: 300, 420 and 1200 of 1600 steps).
"""
import numpy as np

from rlft.report import pairs, statistics, verdicts
from rlft.report.tables import Tables
from rlft.report.verdicts import Claim, Finding, judged, not_tested, points

NO_RL = 'no RL run'
WINDOW = (.4, .8)  # ID rate of a start from which RL is said to work
UNSURE = ('that SFT has lost OOD success before these starts is not certain '
          '(or the hands do not pair)')
PLACES = {
    'base': 'step 0',
    'early': 'up to the OOD peak or a fifth of the SFT steps',
    'middle': 'after that and before three quarters of the SFT steps',
    'late': 'from three quarters of the SFT steps on'}


def places(tables: Tables) -> dict[str, list[int]]:
  """The starts that RL was run from, by where they lie in the SFT run."""
  rows = statistics.rows_of(tables, 'sft')
  steps = statistics.common_steps(rows, 'ood')
  peak = statistics.peak_step(rows) or 0
  found = {'base': [], 'early': [], 'middle': [], 'late': []}
  for start in statistics.starts(tables):
    last = steps[-1] if steps else start
    name = ('base' if start == 0 else
            'early' if start <= max(peak, last / 5) else
            'late' if start >= .75 * last else 'middle')
    found[name].append(start)
  return found


def effect(tables: Tables, starts: list[int], name: str = 'ood',
           confidence: float = .95) -> dict | None:
  """End minus start of RL, meaned over starts."""
  ends = [statistics.rl_end(tables, s, name) for s in starts]
  begins = [statistics.rl_start(tables, s, name) for s in starts]
  weights = [1 / len(starts)] * len(starts) + [-1 / len(starts)] * len(starts)
  return pairs.contrast(ends + begins, weights, confidence=confidence)


def each(tables: Tables, starts: list[int]) -> str:
  """The effect from every start in words."""
  return '; '.join(f'from step {s} {points(effect(tables, [s]))}'
                   for s in starts)


def _placed(tables, place):
  """The effect over all starts of one place, or why there is none."""
  if not statistics.starts(tables):
    return None, NO_RL
  starts = places(tables)[place]
  if not starts:
    return None, f'no RL run from a {place} checkpoint ({PLACES[place]})'
  found = effect(tables, starts)
  if found is None:
    return None, f'RL from {starts} has no hands in common with its start'
  return found, each(tables, starts)


def middle_raises(tables: Tables) -> Finding:
  found, why = _placed(tables, 'middle')
  if found is None:
    return not_tested(why)
  return judged(found['low'] > 0, found, 'difference of rates', why)


def early_lowers(tables: Tables) -> Finding:
  found, why = _placed(tables, 'early')
  if found is None:
    return not_tested(why)
  return judged(found['high'] < 0, found, 'difference of rates', why)


def late_not_rescued(tables: Tables) -> Finding:
  found, why = _placed(tables, 'late')
  if found is None:
    return not_tested(why)
  return judged(
      found['high'] < verdicts.MARGIN, found, 'difference of rates', why)


def below_sft_peak(tables: Tables) -> Finding:
  starts = statistics.starts(tables)
  if not starts:
    return not_tested(NO_RL)
  ends = {s: statistics.rl_end(tables, s, 'ood') for s in starts}
  ends = {s: end for s, end in ends.items() if end}
  best = pairs.best_elsewhere(ends)
  gain = pairs.contrast(
      [best, statistics.sft_peak(tables)], [1, -1], confidence=.9)
  if gain is None:
    return not_tested('RL and the SFT peak have no hands in common')
  return judged(
      gain['high'] < verdicts.MARGIN, gain, 'difference of rates',
      f'best of {len(ends)} RL ends minus the best SFT step, both '
      'cross-fitted: chosen on one half of the problems, scored on the other '
      '(90 % interval: the test is one-sided)')


def recovery(tables: Tables) -> Finding:
  starts = statistics.starts(tables) and places(tables)['middle']
  if not starts:
    return not_tested(
        f'no RL run from a middle checkpoint ({PLACES["middle"]})')
  ends = [statistics.rl_end(tables, s, 'ood') for s in starts]
  begins = [statistics.rl_start(tables, s, 'ood') for s in starts]
  top = statistics.sft_peak(tables)
  k = len(starts)
  fraction = pairs.ratio(
      [*ends, *begins, top], [1] * k + [-1] * k + [0],
      [0] * k + [-1] * k + [k])
  if fraction is None:
    return not_tested(f'{UNSURE}: no share of it can be given')
  return judged(
      fraction['mean'] >= .75 and fraction['low'] > .5, fraction,
      'recovered fraction',
      'share of the OOD success lost since the cross-fitted SFT peak that RL '
      'brings back; '
      f'starts: {", ".join(map(str, starts))}')


def window_predicts(tables: Tables) -> Finding:
  runs = _runs(tables)
  if len(runs) < 4:
    return not_tested(f'{len(runs)} RL runs with paired starts; four needed')
  inside = np.array([WINDOW[0] <= r['id'] <= WINDOW[1] for r in runs], float)
  if min(inside.sum(), (1 - inside).sum()) < 2:
    return not_tested(
        f'{int(inside.sum())} of {len(runs)} starts have an ID rate of 40 to '
        '80 %: two inside and two outside are needed')
  change = np.array([r['change'] for r in runs])
  columns = [np.ones(len(runs)), inside]
  if all(r['entropy'] is not None for r in runs):
    columns.append(np.array([r['entropy'] for r in runs]))
    used = 'start ID rate in 40 to 80 % and advantage entropy'
  else:
    used = 'start ID rate in 40 to 80 % (advantage entropy was not logged)'
  score = _left_out(np.stack(columns, axis=1), change)
  rng = np.random.default_rng(0)
  groups = [change[inside == side] for side in (1, 0)]
  draws = [rng.choice(g, size=(2000, g.size)).mean(axis=1) for g in groups]
  gap = {'mean': float(groups[0].mean() - groups[1].mean())}
  gap['low'], gap['high'] = map(
      float, np.quantile(draws[0] - draws[1], [.025, .975]))
  return judged(
      score > 0 and gap['low'] > 0, gap, 'difference of rates',
      'change of OOD inside minus outside the window; leave-one-out R² '
      f'{score:.2f} over {len(runs)} runs from {used}')


def base_alone_fails(tables: Tables) -> Finding:
  if 0 not in statistics.starts(tables):
    return not_tested('no RL run from the base (from_step 0)')
  found = {name: effect(tables, [0], name) for name in ('id', 'ood')}
  if None in found.values():
    return not_tested('RL from the base has no hands in common with it')
  counts = statistics.outcome_counts(
      statistics.rows_of(tables, 'sft'), 'ood', 0)
  total = sum(counts.values())
  broken = (f'; {verdicts.percent(counts.get("format", 0) / total)} of the '
            'base\'s OOD replies have a broken format') if total else ''
  return judged(
      max(found[n]['high'] for n in found) < verdicts.MARGIN, found['ood'],
      'difference of rates',
      f'change of OOD; of ID {points(found["id"])}{broken}')


def _runs(tables):
  """Every RL run that starts from SFT: ID at its start, change of OOD."""
  runs = []
  for seed in statistics.seeds(tables):
    one = statistics.of_seed(tables, seed)
    for start in statistics.starts(one):
      change = start and effect(one, [start])
      begins = statistics.rl_start(one, start, 'id').get(seed)
      if change and begins is not None:
        logged = [m for m in one['metrics'] if m['role'] == 'rl' and
                  m['from_step'] == start][:10]
        runs.append({'id': float(begins.solved.mean()),
                     'change': change['mean'],
                     'entropy': statistics.mean_over_rows(
                         logged, 'advantage_entropy')})
  return runs


def _left_out(columns, target):
  """R² of predictions for each run by least squares on the others."""
  residuals = []
  for i in range(target.size):
    others = np.arange(target.size) != i
    fit = np.linalg.lstsq(columns[others], target[others], rcond=None)[0]
    residuals.append(target[i] - columns[i] @ fit)
  spread = np.sum((target - target.mean()) ** 2)
  return float(1 - np.sum(np.square(residuals)) / spread) if spread else 0.


CLAIMS = (
    Claim(6, 'RL from a middle SFT checkpoint raises OOD success',
          'RL end minus start, meaned over middle starts (after the OOD peak '
          'and a fifth of the SFT steps, before three quarters), is above 0.',
          middle_raises),
    Claim(7, 'RL from an early checkpoint lowers OOD success',
          'RL end minus start, meaned over early starts (up to the OOD peak or '
          'a fifth of the SFT steps), is below 0.',
          early_lowers),
    Claim(8, 'RL cannot rescue a late checkpoint',
          'RL end minus start, meaned over late starts (from three quarters '
          'of the SFT steps on), is below two points (upper end).',
          late_not_rescued),
    Claim(9, 'RL never exceeds the SFT peak: early stopping is as good',
          'The best RL end minus the SFT peak is below two points (upper end, '
          'one-sided 95 %; both chosen on the other half of the problems).',
          below_sft_peak),
    Claim(10, 'RL recovers 75 to 99 % of the OOD success that SFT lost',
          'The recovered fraction over middle starts is at least 0.75 and its '
          'interval above 0.5.', recovery),
    Claim(11, 'RL works where the start has an ID rate of 40 to 80 % and '
          'spread-out advantages',
          'Leave-one-out R² of the change of OOD over all runs is above 0, '
          'and the change is larger inside the window than outside (interval '
          'above 0).', window_predicts),
    Claim(12, 'RL alone from the base fails',
          'RL from the base raises neither OOD nor ID by two points (upper '
          'ends).', base_alone_fails),
)
