"""What a caller may type, and the one line for what he may not."""
import pathlib
import shlex

import pytest
import request

STUDY = 'tests/fixtures/launch/study.py'
PAPER = 'configs/general_points/qwen2_5_7b.py'
SCALE = 'configs/scale.py:llama-3.2-11b-vision,sft'
FLAGS = {
    'accelerator': 'v5e:4x4', 'run_dir': 'gs://my-bucket/runs/demo_1',
    'zone': 'us-west4-a', 'project': 'my-project', 'image': 'host/image:tag'}


def read(tool='tpu_vm', kind='study', config=STUDY, more=(), **flags):
  given = {**FLAGS, **flags} if tool == 'tpu_vm' else flags
  return request.read(tool, [
      kind, config, *(f'--{k}={v}' for k, v in given.items() if v), *more])


def test_a_request_is_a_command_of_rlft():
  found = read(more=('--config.name=a b',))
  assert found.command == [
      'rlft', 'run', f'--config={STUDY}', '--run_dir=gs://my-bucket/runs/demo_1',
      '--config.name=a b']
  assert found.options['name'] == 'demo-1'
  assert 'hosts=4' in request.lines(found)
  assert read(kind='run').command == read().command
  assert read(kind='run', config=f'{STUDY}:run').command[2].endswith(':run')


@pytest.mark.parametrize('flags, said', [
    ({'config': 'missing.py'}, 'no config file missing.py'),
    ({'config': '../study.py'}, 'write FILE.py'),
    ({'config': '/etc/study.py'}, 'write FILE.py'),
    ({'config': 'study.py;id'}, 'write FILE.py'),
    ({'config': 'study.py\n'}, 'write FILE.py'),
    ({'config': '-study.py'}, 'write FILE.py'),
    ({'config': f'{STUDY}:run'}, 'is one run and no study'),
    ({'kind': 'eval'}, 'say run CONFIG.py or study'),
    ({'accelerator': 'v5e:3x3'}, 'no accelerator .* known: v4:2x2x1'),
    ({'accelerator': 'h100:1x8'}, 'no accelerator'),
    ({'accelerator': ''}, '--accelerator=... is missing'),
    ({'run_dir': ''}, '--run_dir=... is missing'),
    ({'run_dir': 'runs/demo'}, 'write gs://BUCKET/FOLDER'),
    ({'run_dir': 'gs://my-bucket/a/../b'}, 'write a directory or gs://'),
    ({'run_dir': 'gs://my-bucket/$(id)'}, 'write a directory or gs://'),
    ({'run_dir': 'gs://my-bucket/a b'}, 'write a directory or gs://'),
    ({'run_dir': 's3://my-bucket/a'}, 'write a directory or gs://'),
    ({'run_dir': 'gs://my-bucket/7'}, '--name=.*a letter first'),
    ({'name': '-rf'}, 'a letter first'),
    ({'name': 'a' * 41}, 'up to 40'),
    ({'image': 'host/image tag'}, 'container image'),
    ({'image': '--privileged'}, 'container image'),
    ({'zone': 'us-west4-a --quiet'}, 'write a zone'),
    ({'project': 'My Project'}, "write a project's id"),
    ({'restarts': '010'}, 'a whole number'),
    ({'restarts': '-1'}, 'a whole number'),
    ({'spot': 'yes'}, 'true or false'),
    ({'patience': '6'}, 'hours or minutes'),
    ({'service_account': '$(id)@x'}, "service account's name"),
    ({'zone': '٢s-west4-a'}, 'write a zone'),
    ({'partition': 'gpu'}, 'no flag --partition; known: --accelerator'),
    ({'config': PAPER, 'accelerator': 'v5e:16x16'},
     r'stage sft: 64 rows of a batch do not split over 256 .*has 256 chips'),
    ({'config': PAPER, 'accelerator': 'v5e:8x8'},
     'stage rl_0120: 32 rows of a batch do not split over 64 devices'),
    ({'config': PAPER, 'more': ('--config.mesh.tensor=3',)},
     'mesh.tensor=3, but there are 16 devices, which do not split so'),
    ({'config': SCALE, 'kind': 'run', 'more': ('--config.mesh.data=3',)},
     'mesh.data=3'),
    ({'more': ('--config.nmae=x',)}, 'did you mean name'),
    ({'more': ('--config.name=x\ny',)}, 'more than one line'),
    ({'more': ('--config.name',)}, 'needs a value'),
])
def test_what_cannot_be_launched_is_refused(flags, said):
  with pytest.raises(ValueError, match=said):
    read(**flags)


def test_a_mesh_that_cuts_the_model_splits_over_more_chips():
  read(config=PAPER, accelerator='v5e:16x16',
       more=('--config.mesh.fsdp=32', '--config.mesh.tensor=8'))
  read(config=SCALE, kind='run', accelerator='v5e:16x16')


def test_what_the_readme_launches_can_be_launched():
  lines = pathlib.Path('README.md').read_text().splitlines()
  typed = [line.strip() for line in lines if line.startswith('    launch/')]
  assert len(typed) == 4
  for line in typed:
    for name, value in dict(
        CONFIG=PAPER, IMAGE='host/image:1', BUCKET='my-bucket', NAME='mine',
        PROJECT='my-project').items():
      line = line.replace(f'${name}', value).replace(name, value)
    script, *words = shlex.split(line)
    tool = pathlib.Path(script).stem
    assert request.read(tool, words).command[2] == f'--config={PAPER}'


def test_slurm_takes_directories_and_gpus():
  found = read('slurm', accelerator='h100:2x8', run_dir='/scratch/runs/demo')
  assert found.options['run_dir'] == '/scratch/runs/demo'
  assert found.accelerator.processes == 16
  for time, right in (('24:00:00', True), ('2-00:00:00', True), ('1h', False)):
    try:
      read('slurm', accelerator='h100:1x1', run_dir='a', time=time)
    except ValueError:
      assert not right
    else:
      assert right


def test_every_option_has_a_form_and_every_form_an_option():
  offered = {*request.ALL, 'config'} - {'accelerator'}
  for tool in request.TOOLS.values():
    offered |= {*tool.need, *tool.may}
  assert offered == set(request.FORMS)


def test_the_command_says_one_line(capsys):
  assert request.main(['tpu_vm', 'study', 'a\nb.py']) == 2
  said = capsys.readouterr()
  assert said.out == '' and said.err.count('\n') == 1
  assert request.main(['cloud']) == 2
  assert 'tpu_vm, gke, xpk, slurm' in capsys.readouterr().err
