"""report.html: self-contained, inert, and whole whatever is missing."""
import html.parser
import json
import pathlib
import re
import shutil

import pytest

from rlft import report
from rlft.report import comparison, page, tables

HOSTILE = '</script><img src=x onerror=document.title="owned">'


class Reader(html.parser.HTMLParser):
  """The tags of a page and what its data element holds."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.data, self.title, self.inside = [], '', '', None
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.inside = 'data' if ('id', 'data') in attrs else tag
    assert not {name for name, _ in attrs} & {'src', 'href'}

  def handle_endtag(self, tag):
    self.inside = None

  def handle_data(self, data):
    if self.inside == 'data':
      self.data += data
    if self.inside == 'title':
      self.title += data


def read(path):
  reader = Reader(path.read_text(encoding='utf-8'))
  return reader, json.loads(reader.data)


def test_a_model_cannot_write_markup(study):
  path = study / 'config.json'
  config = json.loads(path.read_text())
  config['model']['name'] = HOSTILE + ' {{data}}'
  path.write_text(json.dumps(config))
  reader, content = read(report.write(study))
  assert 'img' not in reader.tags and 'b' not in reader.tags
  assert reader.tags.count('script') == 2
  assert reader.title.startswith(f'study.py, {HOSTILE}')
  texts = [row['completion'] for group in content['figures']['completions'][
      'groups'] for row in group['rows']]
  # Untouched: the page shows what the model wrote, slots and all.
  assert any(text.startswith(HOSTILE) and text.endswith('{{title}}')
             for text in texts)


@pytest.mark.parametrize('text', [
    '</script>', '<!--', '<!-- <script>', ']]>', '&lt;', '\u2028', '\ud800'])
def test_embedding_is_inert_and_exact(text):
  packed = page.embed({text: text})
  assert not re.search('[<>&\u2028]', packed)
  assert json.loads(packed) == {text: text}


def test_embedding_refuses_what_json_lacks():
  with pytest.raises(ValueError):
    page.embed({'loss': float('nan')})


def test_the_templates_need_no_network_and_parse_no_text():
  text = ''.join(path.read_text(encoding='utf-8') for path in (
      page.TEMPLATE, comparison.TEMPLATE, *page.SHARED.values()))
  assert re.findall(r'https?://[^\'"]*', text) == ['http://www.w3.org/2000/svg']
  for word in ('innerHTML', 'outerHTML', 'insertAdjacentHTML', 'eval(',
               'document.write', '@import', 'url(', 'fetch(', 'import('):
    assert word not in text, word


@pytest.mark.parametrize('template', [page.TEMPLATE, comparison.TEMPLATE])
def test_every_slot_is_filled(template):
  text = page.render({'title': 'x'}, template)
  assert not re.search(r'\{\{\w+\}\}', text)
  assert text.count('<style>') == 1 and 'function chart(' in text


def test_no_markup_in_python():
  for path in pathlib.Path(report.__file__).parent.glob('*.py'):
    assert not re.search(r'<\w+[ />]|</\w', path.read_text()), path


def test_template_and_figures_agree():
  text = page.TEMPLATE.read_text(encoding='utf-8')
  assert set(re.findall(r"figure\('(\w+)',", text)) == set(page.FIGURES)


def test_every_figure_says_its_n_and_interval(written):
  _, content = read(written / 'report.html')
  for name, figure in content['figures'].items():
    assert figure['title'], name
    assert re.search('interval|middle 80 %', figure['note']), name
    if name != 'completions':
      assert 'n = ' in figure['note'], name
  assert content['size'] == '0.87 M parameters'
  assert all(s['sentence'].startswith('0.87 M parameters')
             for s in content['findings'])


@pytest.mark.parametrize('role, lost', [
    ('sft', {'curves', 'failures', 'panel'}), ('rl', {'branches', 'ppo'}),
    ('rotation', {'heatmap', 'profile'}), ('restoration', {'plane'})])
def test_a_missing_stage_is_not_run_and_no_crash(study, role, lost):
  stages = json.loads((study / 'stages.json').read_text())
  for stage in stages:
    if stage['role'] == role:
      shutil.rmtree(study / stage['name'])
      stage |= {'finished': False, 'seconds': None}
  (study / 'stages.json').write_text(json.dumps(stages))
  _, content = read(report.write(study))
  assert lost == {k for k, v in content['figures'].items() if v is None}
  states = {s['role']: set(s['states']) for s in content['stages']}
  assert states[role] == {'not run'}


def test_an_empty_study_is_a_page_too(tmp_path):
  reader, content = read(report.write(tmp_path))
  assert set(content['figures'].values()) == {None}
  assert 'stages.json is missing: no stage is shown' in content['warnings']
  assert reader.title == 'model, size not recorded'
  assert json.loads((tmp_path / 'summary.json').read_text())['rl'] == []


def test_a_stage_without_solved_hands_has_no_differences(study):
  for path in study.glob('*/*.jsonl'):
    lines = [json.loads(x) for x in path.read_text().split('\n') if x]
    path.write_text(''.join(json.dumps({
        k: v for k, v in line.items() if 'solved' not in k}) + '\n'
        for line in lines))
  _, content = read(report.write(study))
  summary = json.loads((study / 'summary.json').read_text())
  assert summary['sft']['forgetting'] is None
  assert summary['sft']['curve'][0]['ood']['n'] == 400
  assert 'not paired' in content['findings'][0]['sentence']


def test_truncation_is_said_on_the_page(study):
  path = study / 'rl_0_50' / 'evals.jsonl'
  path.write_text(path.read_text()[:-30])
  _, content = read(report.write(study))
  assert any('rl_0_50/evals.jsonl: line 8' in w for w in content['warnings'])


def test_both_files_are_replaced_whole(study, monkeypatch):
  (study / 'summary.json').write_text(old := 'as it was')
  before = {p.name for p in study.iterdir()}
  monkeypatch.setattr(page, 'render', lambda content: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    report.write(study)
  assert {p.name for p in study.iterdir()} == before
  assert (study / 'summary.json').read_text() == old


def figure(study, name):
  return page.FIGURES[name].figure(tables.read(study))


def test_curves_branch_where_rl_starts(written):
  found = figure(written, 'curves')
  branch = next(b for b in found['branches']
                if b['from_step'] == 200 and b['key'] == 'ood')
  assert [p['x'] for p in branch['points']] == [200, 220, 240, 260]
  assert branch['points'][-1]['success'] == pytest.approx(.37)
  assert len(found['series'][0]['seeds']) == 2


def test_shares_of_outcomes_sum_to_one(written):
  for panel in figure(written, 'failures')['panels']:
    for shares in zip(*panel['shares'].values(), strict=True):
      assert sum(shares) == pytest.approx(1)


def test_kl_is_that_of_the_evaluated_step(written):
  sft = figure(written, 'divergence')['lines'][0]
  assert len(sft['points']) <= 200
  at = {p['step']: p['kl'] for p in sft['against']}
  by_step = {p['step']: p['kl'] for p in sft['points']}
  assert at[0] == 0 and at[400] == by_step[400]
  assert at[10] == by_step[0]  # the last logged step before it


def test_kl_to_the_base_is_preferred(study):
  for path in study.glob('*/evals.jsonl'):
    rows = [json.loads(x) for x in path.read_text().split('\n') if x]
    path.write_text(''.join(json.dumps(r | {
        'kl_to_base': r['step'] + (r['eval'] == 'ood'),
        'kl_to_base_fixed': r['step'] + 7}) + '\n' for r in rows))
  found = figure(study, 'divergence')
  sft = found['lines'][0]
  assert 'KL(policy || base)' in found['title']
  assert [p['kl'] for p in sft['points']] == [p['x'] for p in sft['points']]
  against = found['lines'][1]['against']
  assert {p['kl'] for p in against} == {0, 20, 40, 60}
  assert all(p['fixed'] == p['step'] + 7 for p in against)


def test_each_restoration_has_its_own_plane(study):
  stages = json.loads((study / 'stages.json').read_text())
  for stage in stages:
    if stage['name'] == 'restoration_1_600':
      stage['role'] = 'impose_sft_on_rl'
      (study / stage['name'] / 'config.json').write_text(json.dumps({
          'analysis': {'name': 'restoration'}, 'checkpoints': {
              'before': f'{study}/sft_1@200', 'after': 'rl_1_200@60'}}))
  (study / 'stages.json').write_text(json.dumps(stages))
  (study / 'config.json').write_text(json.dumps({'stages': {
      'restoration_1_600': {'config': {'analysis': {
          'name': 'restoration'}}}}}))
  report.write(study)
  main, other = figure(study, 'plane')['groups']
  assert main['points'][0]['ood']['n'] == other['points'][0]['ood']['n'] == 200
  assert other['label'] == 'sft@200 → rl@60'
  summary = json.loads((study / 'summary.json').read_text())
  assert set(summary['restoration_by_group']) == {
      'restoration', 'impose_sft_on_rl'}
  # The claim is asked of that comparison, whose edit keeps too much ID.
  assert 'changes OOD by' in summary['claims'][18]['why']


def test_the_checkpoint_that_edits_lead_to_is_marked(study):
  for path in study.glob('restoration*/restoration.jsonl'):
    path.write_text('\n'.join(
        line for line in path.read_text().split('\n')
        if 'interpolate 1.0' not in line))
  marks = figure(study, 'plane')['groups'][0]['marks']
  assert [(m['label'], m['ood']['success']) for m in marks] == [('base', .16)]


def test_excess_is_measured_minus_null(written):
  found = figure(written, 'heatmap')
  grids = found['comparisons'][0]['grids']['angle']
  assert grids['excess'][2][3] == pytest.approx(
      grids['measured'][2][3] - grids['null'][2][3])
  assert 10 < grids['measured'][0][0] < 40  # degrees


def test_long_texts_and_many_steps_are_cut(study):
  folder = study / 'sft_0' / 'samples'
  for step in range(700, 760):
    (folder / f'{step:06d}.jsonl').write_text(json.dumps(
        {'eval': 'id', 'completion': 'x' * 5000, 'reward': 1}) + '\n')
  groups = [g for g in figure(study, 'completions')['groups']
            if g['stage'] == 'sft_0']
  assert len(groups) == 8 and groups[-1]['step'] == 759
  assert len(groups[-1]['rows'][0]['completion']) < 1300
