"""The JobSet: its form by a schema, its meaning by rules.

jobset.schema.json has the fields that are used, as the definition of JobSet
(v1alpha2) and of Kubernetes' Job have them, and no others.
"""
import copy
import json

import accelerators
import jobset
import jsonschema
import pytest
import request

from tests.launch.conftest import ROOT

SCHEMA = json.loads(
    (ROOT / 'tests/fixtures/launch/jobset.schema.json').read_text())
STUDY = 'tests/fixtures/launch/study.py'
SLICES = [row.name for row in accelerators.TABLE.values()
          if row.family.kind == 'tpu']
STOPS = (1, 2, 41, 43, 44, 45, 46)


def manifest(accelerator, *more):
  asked = request.read('gke', [
      'study', STUDY, f'--accelerator={accelerator}', '--image=host/image:tag',
      '--run_dir=gs://my-bucket/demo', *more])
  return json.loads(jobset.told(asked))


def check(found, row):
  """AssertionError or ValidationError for what would not run as it should."""
  jsonschema.Draft202012Validator(SCHEMA).validate(found)
  spec = found['spec']
  job, = spec['replicatedJobs']
  job = job['template']['spec']
  assert job['parallelism'] == job['completions'] == row.hosts
  pod = job['template']['spec']
  container, = pod['containers']
  chips = container['resources']['limits']['google.com/tpu']
  assert chips == container['resources']['requests']['google.com/tpu']
  assert chips * row.hosts == row.chips
  selector = pod['nodeSelector']
  assert selector['cloud.google.com/gke-tpu-topology'] == row.shape
  shape = selector['cloud.google.com/gke-tpu-topology'].split('x')
  assert len(shape) == len(row.topology)
  assert {v['name'] for v in pod['volumes']} == {
      m['name'] for m in container['volumeMounts']}
  # SIGTERM: no shell between the pod and Python
  assert container['command'][:2] == ['rlft', 'run']
  rule, = spec['failurePolicy']['rules']
  assert (rule['name'], rule['action'], rule['onJobFailureReasons']) == (
      'fault', 'FailJobSet', ['PodFailurePolicy'])
  gone, fault = job['podFailurePolicy']['rules']
  assert gone['action'] == 'Count' and 'onPodConditions' in gone
  codes = fault['onExitCodes']
  assert (fault['action'], codes['operator']) == ('FailJob', 'NotIn')
  assert codes['containerName'] == container['name']
  assert codes['values'] == [42, *range(128, 256)]
  assert not set(STOPS) & set(codes['values'])


@pytest.mark.parametrize('name', SLICES)
def test_the_manifest_of_every_slice_is_right(name):
  check(manifest(name), accelerators.TABLE[name])


def test_what_is_asked_for_is_there():
  found = manifest('v5e:4x4', '--spot=true', '--queue=ours', '--restarts=3',
                   '--service_account=trainer', '--config.name=a b')
  check(found, accelerators.TABLE['v5e:4x4'])
  pod = found['spec']['replicatedJobs'][0]['template']['spec']['template'][
      'spec']
  assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true'
  assert pod['serviceAccountName'] == 'trainer'
  assert found['metadata']['labels'] == {'kueue.x-k8s.io/queue-name': 'ours'}
  assert found['spec']['failurePolicy']['maxRestarts'] == 3
  assert pod['containers'][0]['command'][-1] == '--config.name=a b'


def change(tree, path, value):
  *folders, last = path.split('.')
  for key in folders:
    tree = tree[int(key) if key.isdecimal() else key]
  last = int(last) if last.isdecimal() else last
  if value is None:
    del tree[last]
  else:
    tree[last] = value


JOB = 'spec.replicatedJobs.0.template.spec'
POD = f'{JOB}.template.spec'


@pytest.mark.parametrize('path, value', [
    (f'{JOB}.parallelism', 3), (f'{JOB}.parallelism', '4'),
    (f'{JOB}.paralelism', 4), (f'{JOB}.backoffLimit', 6),
    (f'{JOB}.completions', None), (f'{POD}.restartPolicy', 'OnFailure'),
    (f'{POD}.containers.0.env.0.value', 1), (f'{POD}.containers.0.image', ''),
    (f'{POD}.containers.0.command', ['bash', '-c', 'rlft run']),
    (f'{POD}.containers.0.resources.limits', {'google.com/tpu': 8}),
    (f'{POD}.nodeSelector', {'cloud.google.com/gke-tpu-topology': '4x4'}),
    ('spec.failurePolicy.rules.0.name', None),
    ('spec.failurePolicy.rules.0.action', 'RestartJobSet'),
    ('spec.failurePolicy.rules.0.action', 'FailJobset'),
    (f'{JOB}.podFailurePolicy.rules.1.onExitCodes.operator', 'In'),
    (f'{JOB}.podFailurePolicy.rules.1.onExitCodes.values.0', 41),
    (f'{JOB}.podFailurePolicy.rules.0.onPodConditions.0.status', True),
    ('metadata.name', 'Demo'), ('apiVersion', 'jobset.x-k8s.io/v1alpha1')])
def test_a_wrong_manifest_is_seen(path, value):
  found = copy.deepcopy(manifest('v5e:4x4'))
  change(found, path, value)
  with pytest.raises((AssertionError, jsonschema.ValidationError)):
    check(found, accelerators.TABLE['v5e:4x4'])
