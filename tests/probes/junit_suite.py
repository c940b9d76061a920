"""A JUnit report, read the way CI reads it."""

from xml.etree import ElementTree as ET


def suite_of(text):
    root = ET.fromstring(text)  # noqa: S314 - our own
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert next(child.tag for child in suite) == "properties"
    cases = suite.findall("testcase")
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(attribute)) == len([case for case in cases if case.find(tag) is not None])
    assert int(suite.get("tests")) == int(root.get("tests")) == len(cases)
    assert all({"name", "classname"} <= set(case.keys()) for case in cases)
    return suite
