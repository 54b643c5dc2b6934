"""The named-entity example: what its builder reads, what its metric counts, that padding never does."""

import importlib
import importlib.util
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from conftest import ROOT, copy_of, run_process, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

import evaluate
import train
from toolkit.core.task import Task, import_model_package
from utils import Params, UserError

EXAMPLE = ROOT / "examples" / "ner"
SAMPLE = EXAMPLE / "data" / "sample"
SPLITS = ("train", "val", "test")
SENTENCE = "Anna B-PER\nsaw O\nRome B-LOC\n\nBob B-PER\nran O\n"


@pytest.fixture(autouse=True)
def example():
    """Make the example's `model` the package of that name."""
    import_model_package(EXAMPLE / "model")


@pytest.fixture
def build(call, tmp_path, monkeypatch):
    """Run build_dataset.py, whose data/ is in tmp_path: gives (exit code, stdout, stderr)."""
    module = module_of("build_dataset")
    monkeypatch.setattr(module, "DATA", tmp_path / "data")
    return lambda *arguments: call(module.main, *arguments)


def module_of(name):
    spec = importlib.util.spec_from_file_location(f"ner_{name}", EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def conll_folder(tmp_path, text=SENTENCE, names=("train.txt", "dev.txt", "test.txt"), **texts):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in names:
        content = texts.get(name.split(".")[0], text)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def lines(folder, split="train"):
    files = [folder / split / name for name in ("sentences.txt", "labels.txt")]
    return [file.read_text(encoding="utf-8").splitlines() for file in files]


def facts_of(folder):
    return json.loads((folder / "dataset.json").read_text())


def params_of(data_dir, **values):
    """The example's Params for a dataset, with a small network."""
    net = importlib.import_module("model.net")
    file = data_dir.parent / "small.json"
    values = {"embedding_dim": 8, "lstm_hidden_dim": 6, "char_embedding_dim": 5} | values
    file.write_text(json.dumps(values))
    params = Params(file, declared=net.Hyperparameters)
    params.add_facts({"cuda": False} | {k: v for k, v in facts_of(data_dir).items() if k != "source"})
    return params


def net_and_loaders(tmp_path, **values):
    """The network, with seeded weights, the loaders of the sample, and the params."""
    data_dir = copy_of(SAMPLE, tmp_path / "sample")
    params = params_of(data_dir, **values)
    torch.manual_seed(0)
    task = Task(EXAMPLE / "model")
    return task.Net(params), task.fetch_dataloader(SPLITS, data_dir, params), params


# what is read


def test_the_bundled_sample_is_what_the_builder_makes_of_its_own_text(build, tmp_path):
    code, out, err = build(SAMPLE, "--name", "sample")
    assert (code, err) == (0, "")
    assert snapshot(tmp_path / "data" / "sample") == snapshot(SAMPLE)
    assert {tag[2:] for tag in facts_of(SAMPLE)["tags"]} == {"", "PER", "LOC", "ORG", "MISC"}


@pytest.mark.parametrize(
    "names",
    [
        ("eng.train", "eng.testa", "eng.testb"),
        ("train.txt", "valid.txt", "test.txt", "metadata"),
        ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated"),
    ],
)
def test_a_published_corpus_is_found_by_the_names_of_its_files(build, tmp_path, names):
    assert build(conll_folder(tmp_path, names=names), "--name", "x")[0] == 0
    for split in SPLITS:
        assert lines(tmp_path / "data" / "x", split) == [["Anna saw Rome", "Bob ran"], ["B-PER O B-LOC", "B-PER O"]]


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf-DOCSTART- -X- O O\r\n\r\nA NN B-NP B-X\r\nb NN O O\r\n\r\n\r\nc NN O O",  # no newline at the end
        b"A\tB-X\nb\tO\n\t\nc\tO\n\n",
        b"A    x\t y\tB-X\r\r\nb\tz\tO\r\r\n\r\r\nc\tz\tO".replace(b"    x", b""),
        b"-DOCSTART-\nA   B-X\nb   O\n-DOCSTART-\nc   O \n",
        b"A\tB-X\rb\tO\r\rc\tO\r",
    ],
    ids=["conll2003_bom_crlf", "tabs", "doubled_returns", "aligned_with_blanks", "old_mac"],
)
def test_columns_are_read_in_whatever_way_they_are_written(build, tmp_path, text):
    assert build(conll_folder(tmp_path, text), "--name", "x")[0] == 0
    assert lines(tmp_path / "data" / "x") == [["A b", "c"], ["B-X O", "O"]]


@pytest.mark.parametrize(
    "text",
    [
        "# id 5f3a domain=en\nA _ _ B-X\n# _ _ O\n\n# id 5f3b domain=en\n# _ _ O\nc _ _ O\n",  # MultiCoNER
        "# newdoc id = 1\n# sent_id = 1\n# text = A # is an O\nA\tB-X\n#\tO\n\n# sent_id = 2\n#\tO\nc\tO\n",
        "#begin document (a/b); part 000\nA x B-X\n# x O\n\n# x O\nc x O\n\n#end document\n",  # OntoNotes
        "#id=1\nA B-X\n# O\n\n# 2\n# O\nc O\n",
    ],
)
def test_comments_before_a_sentence_are_no_tokens_and_the_token_hash_stays(build, tmp_path, text):
    code, out, _ = build(conll_folder(tmp_path, text), "--name", "x")
    assert code == 0
    assert lines(tmp_path / "data" / "x") == [["A #", "# c"], ["B-X O", "O O"]]
    assert "comment lines, such as those with # id, are left out" in out


def test_separators_of_documents_are_no_sentences(build, tmp_path):
    source = copy_of(SAMPLE, tmp_path / "text")
    for split in SPLITS:
        (source / split / "sentences.txt").write_text("-DOCSTART-\na b\n-DOCSTART-\nc\n")
        (source / split / "labels.txt").write_text("O\nB-X O\nO\nO\n")
    assert build(source, "--name", "x")[0] == 0
    assert lines(tmp_path / "data" / "x") == [["a b", "c"], ["B-X O", "O"]]


def test_blank_tokens_neither_shift_tags_nor_are_lost(build, tmp_path):
    text = " \tO\nNew York\tB-LOC\n\u00a0\tO\n\tO\na\u2028b\u0085\tI-LOC\n\u200bz\tO\n"
    assert build(conll_folder(tmp_path, text), "--name", "x")[0] == 0
    assert lines(tmp_path / "data" / "x") == [["_ New_York _ _ a_b_ \u200bz"], ["O B-LOC O O I-LOC O"]]


def test_kaggles_file_is_split_and_keeps_its_last_sentence(build, tmp_path):
    """windows-1252, a quote that is quoted, the number in a sentence's first row alone, as the published file has it."""
    rows = ["Sentence #,Word,POS,Tag"]
    for number in range(1, 41):
        rows += [f"Sentence: {number},caf\u00e9{number % 20},NN,B-geo", ',"""",``,O', ", ,NN,O", ',"1,5",CD,O']
    file = tmp_path / "ner_dataset.csv"
    file.write_bytes("\r\n".join(rows).encode("windows-1252"))
    assert build(file, "--name", "one")[0] == 0
    found = {split: lines(tmp_path / "data" / "one", split) for split in SPLITS}
    assert [len(found[split][0]) for split in SPLITS] == [28, 6, 6]
    every = [text for split in SPLITS for text in found[split][0]]
    assert sorted(every) == sorted(f'caf\u00e9{n % 20} " _ 1,5' for n in range(1, 41))
    assert not set(found["train"][0]) & set(found["val"][0] + found["test"][0])  # the same sentence, in one split alone
    assert build(file, "--name", "other", "--seed", "1")[0] == 0
    assert facts_of(tmp_path / "data" / "other")["fingerprint"] != facts_of(tmp_path / "data" / "one")["fingerprint"]
    text = file.read_bytes().decode("windows-1252")
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\r\n", "\n").encode())  # a copy saved as UTF-8
    assert "nothing to do" in build(file, "--name", "one")[1]


def test_the_vocabulary_is_of_train_alone_and_the_rare_words_come_last(build, tmp_path):
    train = "b O\nb O\na O\na O\nc O\nd B-X\nd O\nd O\n"
    folder = conll_folder(tmp_path, train=train, dev="a O\nz B-X\n", test="y O\n<unknown> B-X\n")
    build(folder, "--name", "x")
    build(folder, "--name", "two", "--min_count", "2")
    words = (tmp_path / "data" / "x" / "words.txt").read_text().split()
    assert words == ["<padding>", "<unknown>", "d", "a", "b", "c"]
    assert facts_of(tmp_path / "data" / "x")["first_rare"] == 5
    assert (tmp_path / "data" / "two" / "words.txt").read_text().split() == words[:5]
    assert facts_of(tmp_path / "data" / "two")["first_rare"] == 5 == facts_of(tmp_path / "data" / "two")["vocab_size"]
    assert facts_of(tmp_path / "data" / "x")["fingerprint"] != facts_of(tmp_path / "data" / "two")["fingerprint"]
    data_loader = importlib.import_module("model.data_loader")
    params = params_of(tmp_path / "data" / "x")
    test = data_loader.fetch_dataloader(["test"], tmp_path / "data" / "x", params)["test"].dataset
    assert test.words.tolist() == [1, 1]  # a token that is called like the unknown word is no more than unknown


def test_a_tag_that_train_lacks_counts_as_missed(build, tmp_path):
    code, out, err = build(conll_folder(tmp_path, test="x B-NEW\ny O\n"), "--name", "x")
    assert (code, err) == (0, "")
    assert "test has tags that are missing in train and cannot be learned: B-NEW" in out
    assert "B-NEW" in facts_of(tmp_path / "data" / "x")["tags"]


@pytest.mark.parametrize(
    "texts, message",
    [
        ({"dev": "Anna B-PER\nsaw\n"}, "dev.txt, line 2: has one column only, 'saw'; a token and its tag are needed"),
        ({"dev": "Anna B-PER\n# id = 3 x\n"}, "dev.txt, line 2: has 5 columns, the lines before have 2"),
        ({"test": "\n\n"}, "the test split has no sentences"),
        ({"train": b"a O\n\xe9t\xe9 O\n"}, "train.txt, line 2: not UTF-8, it has a byte 0xe9; save it as UTF-8"),
        ({"train": "a O\nb B-X\n".encode("utf-16-le")}, "train.txt: has bytes of 0, as UTF-16 and files that are no"),
        (
            dict.fromkeys(("train", "dev", "test"), "a O\n"),
            "all tokens have the same tag, O: there is nothing to learn",
        ),
        ({"names": ("train.txt", "test.txt")}, "nothing in it is called testa or dev or val, for the val split"),
        (
            {"names": ("train.txt", "dev.txt", "test.txt", "test.bak")},
            "test.bak and test.txt are both for test; keep one",
        ),
    ],
)
def test_a_wrong_corpus_is_refused_in_one_line_and_nothing_is_left(build, tmp_path, texts, message):
    code, out, err = build(conll_folder(tmp_path, **texts), "--name", "x")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "labels, message",
    [
        ("O O\nO\n", "line 2: 2 tokens, but 1 tags in labels.txt; one blank separates two"),
        ("O O\n", "line 2: 2 tokens, but 0 tags in labels.txt"),
        ("O O\nO B-X\nO\n", "line 3: 0 tokens, but 1 tags in labels.txt"),
    ],
)
def test_sentences_and_labels_that_differ_are_refused_with_their_line(build, tmp_path, labels, message):
    source = copy_of(SAMPLE, tmp_path / "text")
    (source / "val" / "sentences.txt").write_text("a b\nc d\n")
    (source / "val" / "labels.txt").write_text(labels)
    code, out, err = build(source)
    assert code == 2 and f"val/sentences.txt, {message}" in err


def test_a_dataset_is_not_replaced_unless_asked_for(build, tmp_path):
    folder = conll_folder(tmp_path)
    assert build(folder, "--name", "x")[0] == 0
    before = snapshot(tmp_path / "data")
    for file in folder.iterdir():
        file.write_text(file.read_text().replace("\n", "\r\n"))
    code, out, err = build(folder, "--name", "x")
    assert code == 0 and "nothing to do" in out  # only the line endings are others
    (folder / "train.txt").write_text(SENTENCE.replace("Bob", "Eve"))
    code, out, err = build(folder, "--name", "x")
    assert code == 2 and "holds another dataset (the source files have changed); --force replaces it" in err
    assert snapshot(tmp_path / "data") == before
    assert build(folder, "--name", "x", "--force")[0] == 0
    assert lines(tmp_path / "data" / "x")[0] == ["Anna saw Rome", "Eve ran"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["x"]


def test_a_folder_that_may_be_the_only_copy_of_the_text_is_never_replaced(build, tmp_path):
    corpus = conll_folder(tmp_path).rename(tmp_path / "data")
    (corpus / "mine").mkdir()
    for file in [file for file in corpus.iterdir() if file.is_file()]:
        file.rename(corpus / "mine" / file.name)
    before = snapshot(corpus)
    for extra in ([], ["--force"]):
        code, out, err = build(corpus / "mine", *extra)
        assert code == 2 and "was not made by build_dataset.py; choose another --name" in err
    assert snapshot(corpus) == before


@pytest.mark.parametrize(
    "row, message",
    [
        (",b,NN,", "line 3: has no tag"),
        (',"b,NN,O', "line 5: has no tag, or a quotation mark opens and does not close"),
        (f',"{"b" * 200_000},NN,O', "does a quotation mark open and not close?"),
    ],
)
def test_a_wrong_row_of_kaggles_file_is_named(build, tmp_path, row, message):
    file = tmp_path / "ner_dataset.csv"
    file.write_text(f"Sentence #,Word,POS,Tag\nSentence: 1,a,NN,B-X\n{row}\n,c,NN,O\n,d,NN,O\n")
    code, out, err = build(file)
    assert code == 2 and message in err and err.count("\n") == 1
    file.write_text("Word,POS\n")
    assert "should have the columns Sentence #, Word, Tag" in build(file)[2]


def test_a_dataset_that_was_changed_by_hand_is_not_trained_on(tmp_path):
    data_dir = copy_of(SAMPLE, tmp_path / "sample")
    params = params_of(data_dir)
    file = data_dir / "train" / "labels.txt"
    fetch = importlib.import_module("model.data_loader").fetch_dataloader
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))  # as git on Windows may have it
    fetch(["train"], str(data_dir), params)
    file.write_bytes(file.read_bytes().replace(b"B-LOC", b"B-ORG", 1))
    with pytest.raises(
        Exception, match="train: not what dataset.json says, changed by hand; build it again with --force"
    ):
        fetch(["train"], str(data_dir), params)


def test_words_in_another_order_are_another_kind_of_data(build, call, tmp_path):
    """Weights know a word by its number: another vocabulary of as many words would give them other words."""
    assert build(conll_folder(tmp_path), "--name", "x")[0] == 0
    shutil.rmtree(tmp_path / "corpus")
    assert build(conll_folder(tmp_path, train=SENTENCE + "\n" + SENTENCE.partition("\n\n")[2]), "--name", "y")[0] == 0
    one, other = (facts_of(tmp_path / "data" / name) for name in "xy")
    assert one["vocab_size"] == other["vocab_size"] and one["vocabulary"] != other["vocabulary"]
    words = tmp_path / "data" / "x" / "words.txt"
    *others, last_but_one, last = words.read_text().splitlines()
    words.write_text("\n".join([*others, last, last_but_one]) + "\n")
    with pytest.raises(UserError, match=r"words.txt: not what dataset.json says, changed by hand"):
        importlib.import_module("model.data_loader").fetch_dataloader(
            ["train"], tmp_path / "data" / "x", params_of(tmp_path / "data" / "x")
        )


def test_a_csv_with_the_number_of_its_sentence_in_each_row_has_the_same_sentences(build, tmp_path):
    rows = [(f"Sentence: {n // 3}", f"word{n}", "O" if n % 3 else "B-PER") for n in range(30)]
    for name, copies in (("first", 1), ("each", 3)):
        text = "Sentence #,Word,Tag\n" + "".join(
            f"{s if i % 3 < copies else ''},{w},{t}\n" for i, (s, w, t) in enumerate(rows)
        )
        (tmp_path / f"{name}.csv").write_text(text)
        assert build(tmp_path / f"{name}.csv")[0] == 0
    assert facts_of(tmp_path / "data" / "first")["counts"] == facts_of(tmp_path / "data" / "each")["counts"]
    assert sum(count["sentences"] for count in facts_of(tmp_path / "data" / "each")["counts"].values()) == 10


# what is counted

PREFIXES = ["B-", "I-", "E-", "S-"]
TAGS = ["O", *(prefix + kind for kind in ("PER", "creative-work") for prefix in PREFIXES)]
SCHEMES = {  # as IOBES, and written otherwise
    "BILOU": {"E-": "L-", "S-": "U-"},
    "BMES": {"I-": "M-"},
    "BMEWO": {"I-": "M-", "S-": "W-"},
    "small letters": {"B-": "b-", "I-": "i-", "E-": "e-", "S-": "s-"},
    "underscores": {"B-": "B_", "I-": "I_", "E-": "E_", "S-": "S_"},
}


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_entities_are_counted_as_seqeval_counts_them(data):
    tags = sorted({"O", *data.draw(st.lists(st.sampled_from([*TAGS, "B-"]), min_size=1, max_size=7))})
    sentence = st.lists(st.tuples(*[st.sampled_from(tags)] * 2), min_size=1, max_size=9)
    sentences = data.draw(st.lists(sentence, min_size=1, max_size=6))
    assert_as_seqeval(tags, [[a for a, _ in s] for s in sentences], [[p for _, p in s] for s in sentences])


def scores_of(tags, actual, predicted):
    """The metric's results for two lists of sentences, lists of tags."""
    entity_scores = importlib.import_module("model.entities").entity_scores
    indices = [tags.index(tag) for sentence in predicted for tag in sentence]
    labels = {
        "tags": np.array([tags.index(tag) for sentence in actual for tag in sentence]),
        "lengths": np.array([len(sentence) for sentence in actual]),
    }
    return entity_scores(np.eye(len(tags))[indices], labels, type("Params", (), {"tags": tags}))


def assert_as_seqeval(tags, actual, predicted):
    """Compare the metric with seqeval on two lists of sentences, lists of tags."""
    ours = scores_of(tags, actual, predicted)
    theirs = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what is divided by 0
        for name, score in theirs.items():
            assert ours[name] == pytest.approx(float(score(actual, predicted))), name
        by_type = precision_recall_fscore_support(actual, predicted, average=None)
        found = sorted({kind for kind, _, _ in get_entities(actual) + get_entities(predicted)})
    for number, kind in enumerate(found):
        for name, values in zip(theirs, by_type, strict=False):
            assert ours[f"{name}/{kind}"] == pytest.approx(values[number])
    absent = {name.partition("/")[2] for name in ours if "/" in name} - set(found)
    assert all(ours[f"{name}/{kind}"] == 0 for kind in absent for name in theirs)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scheme=st.sampled_from(list(SCHEMES)), pairs=st.lists(st.tuples(*[st.sampled_from(["O", *TAGS[1:]])] * 2)))
def test_entities_are_the_same_in_every_scheme_they_are_written_in(scheme, pairs):
    def written(tag):
        return SCHEMES[scheme].get(tag[:2], tag[:2]) + tag[2:]

    core = importlib.import_module("toolkit.core.entity_tags")
    sides = [[a for a, _ in pairs], [p for _, p in pairs]]
    other = [[written(tag) for tag in side] for side in sides]
    assert [core.entities(side) for side in other] == [core.entities(side) for side in sides]
    if pairs:
        tags = ["O", *map(written, TAGS[1:])]
        assert scores_of(tags, *([side] for side in other)) == scores_of(TAGS, *([side] for side in sides))


def test_types_without_letters_are_entities_of_neighbours_with_one_type():
    """Few-NERD's tags, whose types have a hyphen themselves."""
    tags = ["O", "art-other", "location-other", "person-actor"]
    actual = ["person-actor", "person-actor", "O", "art-other", "location-other"]
    found = scores_of(tags, [actual], [["O", "person-actor", "O", "art-other", "location-other"]])
    assert (found["precision"], found["recall"]) == pytest.approx((2 / 3, 2 / 3))
    assert found["recall/person-actor"] == 0 and found["recall/art-other"] == 1


@pytest.mark.parametrize(
    "tags", ["X-PER O", "PER-B PER-I", "B-PER LOC", "B-PER L-PER S-PER", "(PER* * *)", "_ PER", "B-PER I-PER V-PER"]
)
def test_tags_of_an_unknown_scheme_are_refused_before_anything_is_written(build, tmp_path, tags):
    text = "".join(f"word{number} {tag}\n" for number, tag in enumerate(tags.split()))
    code, _, err = build(conll_folder(tmp_path, text), "--name", "x")
    assert (code, err.count("\n"), (tmp_path / "data").exists()) == (2, 1, False)
    assert "follow no known scheme; rewrite them in one of IOB1, IOB2, IOBES, BILOU" in err
    with pytest.raises(UserError, match="follow no known scheme"):
        scores_of(tags.split(), [tags.split()], [tags.split()])


@pytest.mark.filterwarnings("ignore")
def test_entities_of_a_large_noisy_text_are_counted_as_seqeval_counts_them():
    """As many tokens, types and mistakes as on WNUT-17's test split."""
    generator = np.random.default_rng(0)
    kinds = ("corporation", "creative-work", "group", "location", "person", "product")
    tags = ["O", *(prefix + kind for kind in kinds for prefix in PREFIXES[:2])]
    share = np.array([0.9] + [0.1 / 12] * 12)
    actual = [generator.choice(13, size, p=share) for size in generator.integers(1, 40, 1200)]
    predicted = [np.where(generator.random(len(s)) < 0.8, s, generator.choice(13, len(s), p=share)) for s in actual]
    assert_as_seqeval(tags, *([[tags[i] for i in sentence] for sentence in side] for side in (actual, predicted)))


# padding and batches


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_sentence_gets_the_same_logits_alone_and_beside_longer_ones(tmp_path, bidirectional):
    net, loaders, _ = net_and_loaders(tmp_path, bidirectional=bidirectional, lstm_layers=2)
    net.eval()
    dataset = loaders["train"].dataset
    unpack_batch = importlib.import_module("model.net").unpack_batch
    inputs, labels = unpack_batch(dataset[torch.arange(len(dataset))])
    together = net(inputs).split(labels["lengths"].tolist())
    for index in (0, 17, int(labels["lengths"].argmin()), int(labels["lengths"].argmax())):
        alone = net(unpack_batch(dataset[torch.tensor([index])])[0])
        torch.testing.assert_close(together[index], alone, rtol=1e-5, atol=1e-6)


def test_loss_and_metrics_are_the_same_for_any_batch_size(tmp_path):
    net_module = importlib.import_module("model.net")
    results = []
    for batch_size in (1, 7, 100):
        net, loaders, params = net_and_loaders(tmp_path / str(batch_size), batch_size=batch_size)
        results.append(evaluate.evaluate(net, net_module.loss_fn, loaders["val"], net_module.metrics, params))
    assert results[0]["loss"] == pytest.approx(results[2]["loss"], rel=1e-5)
    assert [{k: v for k, v in r.items() if k != "loss"} for r in results[1:]] == [
        {k: v for k, v in results[0].items() if k != "loss"}
    ] * 2


def test_every_epoch_has_all_sentences_in_an_order_of_its_own_and_little_padding(tmp_path):
    _, loaders, _ = net_and_loaders(tmp_path, batch_size=5)
    orders = [list(loaders["train"].dataloader.sampler) for _ in range(2)]
    for batches in orders:
        assert len(batches) == len(loaders["train"])
        assert sorted(torch.cat(batches).tolist()) == list(range(len(loaders["train"].dataset)))
    assert torch.cat(orders[0]).tolist() != torch.cat(orders[1]).tolist()
    real = sum(int((inputs["words"] != 0).sum()) for inputs, _ in loaders["train"])
    assert real == facts_of(SAMPLE)["counts"]["train"]["tokens"]
    assert real / sum(inputs["words"].numel() for inputs, _ in loaders["train"]) > 0.9


def test_rare_words_are_unknown_ones_now_and_then_in_training_alone(tmp_path):
    net, _, params = net_and_loaders(tmp_path, unknown_rate=0.5)
    words = torch.arange(params.vocab_size).repeat(200, 1)
    replaced = (net.with_unknown(words) != words).float().mean(dim=0)
    assert (replaced[: params.first_rare] == 0).all()
    assert ((replaced[params.first_rare :] > 0.2) & (replaced[params.first_rare :] < 0.8)).all()
    inputs = {"words": torch.tensor([[params.vocab_size - 1] * 9]), "lengths": torch.tensor([9])}
    inputs["characters"] = torch.full((9, 1), 2)
    for training in (False, True):
        net.train(training)(inputs).sum().backward()
        assert bool(net.embedding.weight.grad[1].any()) == training


# the whole


@pytest.fixture
def project(tmp_path):
    """The example's model/, base_model and the sample in a project of their own, as one who copies them has them."""
    for folder in ("model", "experiments/base_model"):
        ignored = shutil.ignore_patterns(
            "__pycache__", "*.tar", "*.log", "*.csv", "metrics*", "run.json", "tensorboard"
        )
        shutil.copytree(EXAMPLE / folder, tmp_path / "project" / folder, ignore=ignored)
    copy_of(SAMPLE, tmp_path / "project" / "data" / "sample")
    return tmp_path / "project"


def test_the_sample_is_learnt_by_the_roots_scripts(call, project):
    folder = project / "experiments" / "new"
    arguments = ["--model_dir", folder, "--device", "cpu"]
    changes = ["--from", project / "experiments" / "base_model", "char_embedding_dim=10", "lstm_hidden_dim=50"]
    code, out, err = call(train.main, *arguments, *changes, "num_epochs=15", "learning_rate=0.01")
    assert (code, err) == (0, "")
    code, out, err = call(evaluate.main, *arguments)
    assert (code, err) == (0, "")
    results = json.loads((folder / "metrics_test_best.json").read_text())
    assert results["f1"] > 0.7
    assert "| PER " in out and "f1/PER" in results


@pytest.mark.parametrize("beside", [False, True], ids=["in_place", "copied_to_the_root"])
def test_the_builder_runs_from_where_the_readme_says(tmp_path, beside):
    root = tmp_path / "clone"
    ignored = shutil.ignore_patterns("__pycache__", "tests", "data", ".git", "experiments", ".venv", "benchmarks")
    shutil.copytree(ROOT, root, ignore=ignored)
    if beside:
        shutil.copytree(EXAMPLE / "model", root / "model", dirs_exist_ok=True)
        shutil.copy(EXAMPLE / "build_dataset.py", root)
    script, data = ("build_dataset.py", "data") if beside else ("examples/ner/build_dataset.py", "examples/ner/data")
    done = run_process("python", script, conll_folder(tmp_path), "--name", "x", cwd=root)
    assert (done.returncode, done.stderr) == (0, "")
    assert (root / data / "x" / "dataset.json").is_file()
