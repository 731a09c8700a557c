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
    branches,
    completions,
    curves,
    divergence,
    failures,
    findings,
    heatmap,
    plane,
    profile,
    statistics,
    summary,
    timing,
)
from rlft.report.tables import Tables

TEMPLATE = pathlib.Path(__file__).with_name('template.html')
SHARED = {  # what every template has a slot for
    name: pathlib.Path(__file__).with_name(file)
    for name, file in (('style', 'style.css'), ('charts', 'charts.js'))}
FIGURES = {
    'curves': curves, 'branches': branches, 'failures': failures,
    'divergence': divergence, 'heatmap': heatmap, 'profile': profile,
    'plane': plane, 'completions': completions, 'timing': timing}
ROLES = ('sft', 'rl', 'rotation', 'restoration')  # asked of every study


def data(tables: Tables, about: dict[str, Any],
         found: dict[str, Any]) -> dict[str, Any]:
  """Everything the page shows, JSON-able; `found` is the summary."""
  size = findings.size(found['model'])
  name = found['model']['name'] or 'unnamed model'
  return summary.clean({
      'title': f'{name}, {size}' if found['model']['parameters'] else size,
      'size': size,
      'seeds': found['seeds'],
      'hands': curves.count(
          statistics.curve(statistics.rows_of(tables, 'sft'))),
      'findings': findings.sentences(found),
      'stages': _stages(tables),
      'warnings': found['warnings'],
      'figures': {name: part.figure(tables) for name, part in FIGURES.items()},
      'claims': found['claims'],
      'config': about['config'], 'command': about['command'],
      'git': about['git']})


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
