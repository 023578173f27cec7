"""Requests to an engine: their number per operation, engine restarts, and refused requests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from baseimg_core.engine.api import Api, ObjectNotFound, RequestRefused
from baseimg_core.errors import EngineUnreachable
from tests.functional.lab import APP, APP_LAYER, BASE, BUSYBOX, NEW, SLEEP, VERSION_0, Lab, layer
from tests.support.asked import asked
from tests.support.engine import Engine
from tests.support.images import file
from tests.support.ports import free_port

pytestmark = pytest.mark.functional


def test_a_state_with_nothing_to_do_asks_once_for_each_thing(lab: Lab) -> None:
    lab.engine.remove_all()
    lab.usual()
    bundle = lab.bundle()
    lab.apply(bundle)
    lab.engine.start_container(APP, *SLEEP)
    bundles = {"12.1": {"source": bundle}}
    with asked() as few:
        assert lab.converge(BASE, "12.1", bundles)["images"] == [APP, BASE, NEW]
    # the base by name, then every image in parallel requests; running containers, and the image IDs of all containers
    assert few == {"connections": 4, "_ping": 1, "info": 1, "images": 5, "containers": 3}
    with asked() as back:
        lab.rollback(BASE)
    assert back == {**few, "containers": 2}  # the original is refused by no image
    lab.converge(BASE, "12.1", bundles)
    more = [layer(file("other", b"%d" % number)) for number in range(7)]
    lab.load(
        {f"corp/more:{number}": [BUSYBOX, VERSION_0, APP_LAYER, app_layer] for number, app_layer in enumerate(more)}
    )
    lab.converge(BASE, "12.1", bundles)  # judges the new images
    with asked() as many:
        assert len(lab.converge(BASE, "12.1", bundles)["images"]) == 10
    assert many - few == {"images": 7, "connections": 1}  # the limit is four


def test_an_engine_that_restarts_meanwhile(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    api = Api(engine.url)
    assert api.get("images", "json", all=True) == []
    engine.restart()
    assert api.get("images", "json", all=True) == []
    engine.stop()
    for _ in range(2):
        with pytest.raises(EngineUnreachable):
            api.get("images", "json")
    engine.start()
    assert api.get("images", "json", all=True) == []


def test_images_that_are_asked_for_at_once(lab: Lab) -> None:
    lab.usual()
    api = Api(lab.engine.url)
    image_ids = api.image_ids * 5
    assert [answer["Id"] for answer in api.inspect("images", image_ids)] == image_ids
    assert [answer["Id"] for answer in api.inspect("images", [*image_ids, "sha256:" + "0" * 64])] == image_ids
    half = api.inspect("images", image_ids)  # an iterator that is closed early leaves no response on its connection
    assert next(half)["Id"] == image_ids[0]
    half.close()
    lab.engine.restart()  # closes every connection
    assert [answer["Id"] for answer in api.inspect("images", image_ids)] == image_ids


def test_an_engine_that_is_at_no_unix_socket(lab: Lab, make_engine: Callable[..., Engine]) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    engine = make_engine(args=(f"--host={url}", "--tls=false"))
    other = Lab(engine, lab.minion.configure(**{"docker.url": url}), lab.work)
    other.usual()
    engine.start_container(APP, *SLEEP, name="app")
    done = other.apply(other.bundle(), containers={"mode": "restart", "settle": 0})
    assert (done["to"], done["containers"]["current"]) == ("12.1", ["app"])
    assert other.refused("image-unknown", "layer", "corp/none:1").info["message"].startswith(f"the engine at {url} has")


def test_answers_of_an_engine(engine: Engine) -> None:
    api = Api(engine.url)
    with pytest.raises(ObjectNotFound):
        api.get("images", "corp/none:1", "json")
    with pytest.raises(RequestRefused, match="invalid reference format"):
        api.get("images", "a b?all=1#", "json")
    with pytest.raises(RequestRefused):  # the engine answers with a redirect
        api.get("images", "..", "json")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.get("version")["Version"], range(40)))
    assert set(answers) == {api.info["ServerVersion"]}
