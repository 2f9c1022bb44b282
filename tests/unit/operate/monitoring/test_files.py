"""What is written for Prometheus and Grafana: the right targets, a dashboard that holds together, help for alerts."""

import json
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import yaml

from model.timers import PROFILES, Profile
from operate.monitoring.files import monitoring_files
from operate.stack.files import ROOT
from tests.unit.operate.monitoring.example import STACK
from tests.unit.repository.test_documents import headings

FILES = monitoring_files(STACK)
ALERTS = [rule for group in yaml.safe_load(FILES["rules.yml"])["groups"] for rule in group["rules"]]
DASHBOARD = json.loads(FILES["dashboard.json"])


def test_every_target_is_named_by_its_stack_and_host():
    jobs = yaml.safe_load(FILES["prometheus.yml"])["scrape_configs"]
    targets = {
        (config["labels"]["job"], config["labels"]["stack"], config["labels"]["host"], *config["targets"])
        for job in jobs
        for config in job["static_configs"]
    }
    assert targets == {
        ("ha-api-haproxy", "prod", "k8s-lb-0", "198.51.100.11:8405"),
        ("ha-api-haproxy", "prod", "k8s-lb-1", "198.51.100.12:8405"),
        ("ha-api-node", "prod", "k8s-lb-0", "198.51.100.11:9100"),
        ("ha-api-node", "prod", "k8s-lb-1", "198.51.100.12:9100"),
        ("ha-api-vip", "prod", "the VIP", "198.51.100.200:8405"),
    }


def test_an_existing_prometheus_gets_the_same_targets():
    whole, part = (yaml.safe_load(FILES[name]) for name in ("prometheus.yml", "scrape.yml"))
    assert part == {"scrape_configs": whole["scrape_configs"]}


def test_one_prometheus_can_watch_two_stacks():
    """Job names and rule groups are unique in a Prometheus, and a dashboard's uid in a Grafana."""
    other = monitoring_files(replace(STACK, stack="test"))

    def names(files: dict[str, str]) -> set[str]:
        jobs = {job["job_name"] for job in yaml.safe_load(files["scrape.yml"])["scrape_configs"]}
        groups = {group["name"] for group in yaml.safe_load(files["rules.yml"])["groups"]}
        return jobs | groups | {json.loads(files["dashboard.json"])["uid"]}

    assert names(FILES).isdisjoint(names(other))


@pytest.mark.parametrize("stack", ["prod", """org/"it's" `a` #: \\ é"""])
def test_every_rule_selects_only_its_stack(stack: str):
    rules = yaml.safe_load(monitoring_files(replace(STACK, stack=stack))["rules.yml"])["groups"][0]["rules"]
    for rule in rules:
        assert rule["expr"].count("{") == rule["expr"].count(f"stack={json.dumps(stack)}") > 0


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_a_description_and_a_runbook(alert: dict[str, Any]):
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor == alert["alert"].lower()
    assert anchor in headings(ROOT / page)
    assert "<<" not in json.dumps(alert)


def test_a_check_is_slow_from_half_its_timeout():
    rules = monitoring_files(replace(STACK, timers=PROFILES[Profile.STEADY]))["rules.yml"]
    (slow,) = [rule for rule in yaml.safe_load(rules)["groups"][0]["rules"] if rule["alert"] == "ApiServerCheckSlow"]
    assert slow["expr"].rstrip().endswith("> 1.0")


def test_panels_have_unique_ids_and_do_not_overlap():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(0 <= place["x"] <= place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


def test_every_panel_uses_the_selected_data_source():
    (chosen,) = DASHBOARD["templating"]["list"]
    assert (chosen["name"], chosen["type"], chosen["query"]) == ("datasource", "datasource", "prometheus")
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in DASHBOARD["panels"]:
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
        assert all('stack="prod"' in target["expr"] for target in panel["targets"])
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None


def test_api_servers_are_green_when_all_are_up_and_red_without_a_majority():
    (panel,) = [panel for panel in DASHBOARD["panels"] if panel["title"] == "API servers up, of 3"]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps == [
        {"value": None, "color": "red"}, {"value": 2, "color": "orange"}, {"value": 3, "color": "green"},
    ]  # fmt: skip


def test_a_stack_without_frontends_has_no_alerts_and_panels_of_any():
    files = monitoring_files(replace(STACK, frontends=()))
    names = {rule["alert"] for rule in yaml.safe_load(files["rules.yml"])["groups"][0]["rules"]}
    assert {alert["alert"] for alert in ALERTS} - names == {"FrontendDown", "FrontendServerDown", "FrontendFull"}
    panels = json.loads(files["dashboard.json"])["panels"]
    assert panels == DASHBOARD["panels"][: len(panels)]
    added = [panel["title"] for panel in DASHBOARD["panels"][len(panels) :]]
    assert [sum(name in title for title in added) for name in STACK.frontends] == [3, 3]
