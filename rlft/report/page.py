"""The self-contained page: the template with the study's data embedded.

All of a page's markup and drawing is in its template, style.css and charts.js.
It is handed one JSON object and writes every text of it as text, never as
markup.
"""
import html
import json
import pathlib
import re
from typing import Any

from rlft.report import (
    arms,
    branches,
    completions,
    curves,
    divergence,
    failures,
    findings,
    heatmap,
    optimisation,
    panel,
    plane,
    profile,
    statistics,
    summary,
    timing,
)
from rlft.report.tables import Tables

TEMPLATE = pathlib.Path(__file__).with_name('template.html')
SHARED = {  # what a template may have a slot for
    name: pathlib.Path(__file__).with_name(file) for name, file in (
        ('style', 'style.css'), ('charts', 'charts.js'),
        ('learning', 'learning.js'), ('weights', 'weights.js'))}
FIGURES = {
    'curves': curves, 'branches': branches, 'ppo': optimisation,
    'failures': failures, 'panel': panel, 'divergence': divergence,
    'heatmap': heatmap, 'profile': profile, 'plane': plane,
    'completions': completions, 'timing': timing}
FEW_HANDS, FEW_STEPS = 256, 20  # fewer of either measure nothing
ROLES = ('sft', 'rl', 'rotation', 'restoration')  # asked of every study


def data(tables: Tables, about: dict[str, Any],
         found: dict[str, Any]) -> dict[str, Any]:
  """Everything the page shows, JSON-able; `found` is the summary."""
  size = findings.size(found['model'])
  name = found['model']['name'] if found['model']['parameters'] else None
  return summary.clean({
      'title': ', '.join(word for word in (about['study'], name, size) if word),
      'size': size,
      'objective': found['sft']['objective'],
      'empty': trial(found),
      'interval': curves.interval(tables),
      'seeds': found['seeds'],
      'hands': curves.count(
          statistics.curve(statistics.rows_of(tables, 'sft'))),
      'findings': findings.sentences(found),
      'stages': _stages(tables),
      'warnings': found['warnings'],
      'figures': drawn({
          name: part.figure(tables) for name, part in FIGURES.items()}),
      'controlled': drawn(arms.figure(tables)),
      'claims': found['claims'],
      'config': about['config'], 'command': about['command'],
      'git': about['git']})


def trial(found: dict[str, Any]) -> str | None:
  """Why the study can only show that its stages run, None where it is one."""
  hands = min((p[name]['n'] // p[name]['seeds'] for p in found['sft']['curve']
               for name in ('id', 'ood') if p[name]), default=FEW_HANDS)
  steps = found['sft']['last_step']
  few = [f'{hands} hands a rate'] * (hands < FEW_HANDS)
  if steps is not None and steps < FEW_STEPS:
    few.append(f'{steps} training steps')
  return f'{" and ".join(few)} measure nothing' if few else None


def drawn(value: Any) -> Any:
  """The same, every rate with the interval that figures draw.

  That is the clustered one where there is one; Wilson's stands as `wilson`.
  """
  if isinstance(value, list | tuple):
    return [drawn(v) for v in value]
  if not isinstance(value, dict):
    return value
  found = {key: drawn(v) for key, v in value.items()}
  if found.get('cluster_low') is None:
    return found
  return found | {'wilson': [found['low'], found['high']],
                  'low': found['cluster_low'], 'high': found['cluster_high']}


def render(
    content: dict[str, Any], template: pathlib.Path = TEMPLATE) -> str:
  """The page as text."""
  fill = {'title': html.escape(content['title']), 'data': embed(content)}
  fill |= {name: path.read_text('utf-8') for name, path in SHARED.items()}
  # In one pass: a text of the study may itself contain a slot's name.
  return re.sub(
      r'\{\{(' + '|'.join(fill) + r')\}\}', lambda slot: fill[slot[1]],
      template.read_text(encoding='utf-8'))


def embed(content: Any) -> str:
  """JSON that is inert inside a script element.

  Without angle brackets nothing ends the script or opens a comment, whatever
  a model wrote.
  Raises ValueError on numbers that JSON does not have.
  """
  text = json.dumps(content, allow_nan=False)
  for character in '<>&':
    text = text.replace(character, f'\\u{ord(character):04x}')
  return text


def _stages(tables):
  """What came of each role: counts by state."""
  found = []
  listed = [s['role'] for s in tables['stages'] if s['reads']]
  for role in dict.fromkeys((*listed, *ROLES)):
    states = [s['state'] for s in tables['stages'] if s['role'] == role]
    found.append({'role': role, 'states': {
        state: states.count(state) for state in dict.fromkeys(states)} or
        {'not run': 1}})
  return found
