"""BLEEP: its two sides, the loss between them, and the look-up of the most similar spots."""

import pytest
import torch

from tests.models import networks
from triplex_deploy.errors import ConfigError, ContractError
from triplex_deploy.models.bleep import Projection, RetrievedMean, contrastive_loss
from triplex_deploy.models.spot_model import assert_eval

GENES, WIDTH = 6, 16


def random(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def bleep():
    """Return a seeded model in evaluation mode that looks up 4 of the 30 spots of its bank."""
    torch.manual_seed(1)
    model = networks.bleep(GENES, n_neighbors=4, projection_dim=WIDTH).eval()
    model.set_reference_bank(torch.empty(0), random(30, GENES))
    return model


@pytest.mark.parametrize(
    ("width", "all_parameters", "image_side"),
    [(512, 12_095_040, 11_702_848), (256, 11_504_704, 11_374_144)],
)
def test_size_is_the_published_one(width, all_parameters, image_side):
    with torch.device("meta"):
        model = networks.bleep(n_references=60, projection_dim=width)
        tokens = model.encode_targets(torch.zeros(2, 3, 224, 224))
        embeddings = model.encode_expression(torch.zeros(3, 250))
        expression = model.predict_from_tokens(tokens)
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    deployed = [size for name, size in sizes.items() if not name.startswith("expression_")]
    assert sum(sizes.values()) == all_parameters
    assert sum(deployed) == image_side
    assert (tokens.shape, embeddings.shape) == ((2, 1, width), (3, width))
    assert expression.shape == (2, 250)


def test_projection_is_normalized_residual():
    projection = Projection(2, 2, dropout=0.1).eval()
    with torch.inference_mode():
        projection.project.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        projection.refine.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        projection.project.bias.zero_()
        projection.refine.bias.zero_()
        # (1, 3) + (gelu(3), 0) = (4.99595, 3): the first lies above the mean
        torch.testing.assert_close(
            projection(torch.tensor([[1.0, 1.0]])), torch.tensor([[1.0, -1.0]]), atol=1e-4, rtol=0
        )
        projection.refine.weight.zero_()
        torch.testing.assert_close(
            projection(torch.tensor([[1.0, 1.0]])), torch.tensor([[-1.0, 1.0]]), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.648037349), (2.0, 0.673248873)])
def test_loss_of_a_pair_worked_by_hand(temperature, expected):
    """Logits [[1, 2], [0, 2]] and targets softmax([[1.5, 0.5], [0.5, 2.5]]), at temperature 1."""
    image, expression = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1], [0, 1]])
    loss = contrastive_loss(image, expression, temperature)
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_loss_has_gradients_through_its_targets():
    """With a detached target, the gradient would not be the slope of the loss."""
    image, expression = random(3, 4, seed=7).double(), random(3, 4, seed=8).double()
    embeddings = (image.requires_grad_(), expression.requires_grad_())
    assert torch.autograd.gradcheck(contrastive_loss, embeddings)


def test_tokens_pass_the_image_projection(bleep):
    """In the published shape the features are as wide as the token, but they are not the token."""
    images = random(2, 3, 32, 32)
    with torch.inference_mode():
        features = bleep.backbone.feature_map(images).mean((2, 3))
        tokens = bleep.encode_targets(images)
        assert torch.equal(tokens[:, 0], bleep.image_projection(features))
        before = bleep(images)
        bleep.image_projection.norm.weight.neg_()  # now the least alike
        assert not torch.equal(bleep(images), before)


def test_a_spot_of_the_bank_finds_itself():
    embeddings, expression = random(30, WIDTH), random(30, GENES)
    nearest = RetrievedMean(embeddings, expression, n_neighbors=1)
    assert torch.equal(nearest(100 * embeddings[:, None]), expression)


def test_prediction_is_the_plain_mean_of_the_most_alike():
    """Only the direction counts: the third is longer, so its product with the query is larger."""
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.2], [100.0, 150.0], [-5.0, 0.0]])
    expression = torch.tensor([[1.0, 10.0], [3.0, 20.0], [7.0, 70.0], [9.0, 90.0]])
    retrieval = RetrievedMean(embeddings, expression, n_neighbors=2)
    queries = torch.tensor([[[2.0, 0.0]], [[-1.0, 4.0]]])
    torch.testing.assert_close(
        retrieval(queries), torch.tensor([[2.0, 15.0], [8.0, 80.0]]), atol=0, rtol=0
    )


def test_prediction_lies_within_the_bank(bleep):
    with torch.inference_mode():
        prediction = bleep(random(5, 3, 32, 32))
    bank = bleep.retrieval.bank_expression
    assert ((prediction >= bank.amin(0)) & (prediction <= bank.amax(0))).all()


def test_bank_as_large_as_what_is_taken_predicts_its_mean():
    expression = random(7, GENES)
    retrieval = RetrievedMean(random(7, WIDTH), expression, n_neighbors=7)
    expected = expression.mean(0).expand(2, GENES)
    torch.testing.assert_close(retrieval(random(2, 1, WIDTH)), expected)


@pytest.mark.parametrize("taken", [0, 8])
def test_taking_more_than_the_bank_holds_is_refused(taken):
    with pytest.raises(ConfigError, match=f"n_neighbors={taken}: the bank holds 7 spots; use"):
        RetrievedMean(random(7, WIDTH), random(7, GENES), taken)


def test_bank_of_unequal_halves_is_refused():
    with pytest.raises(ConfigError, match="bank: 7 embeddings but 6 rows of expression"):
        RetrievedMean(random(7, WIDTH), random(6, GENES), 2)


def test_without_a_bank_there_is_no_prediction():
    with pytest.raises(ConfigError, match=r"no bank of training spots.*set_reference_bank\(\)"):
        networks.bleep(GENES, projection_dim=WIDTH).eval()(random(1, 3, 32, 32))


def test_a_bank_is_not_made_in_training_mode(bleep):
    with pytest.raises(ContractError, match="training mode"):
        bleep.train().set_reference_bank(torch.empty(0), random(30, GENES))


def test_bank_travels_with_the_weights(bleep):
    restored = networks.bleep(GENES, n_references=30, n_neighbors=4, projection_dim=WIDTH).eval()
    images = random(3, 3, 32, 32)
    with torch.inference_mode():
        assert restored(images).isnan().all()  # a bank that was never loaded shows
        restored.load_state_dict(bleep.state_dict())
        assert torch.equal(restored(images), bleep(images))


def test_predictions_do_not_depend_on_the_batch(bleep):
    images = random(5, 3, 32, 32)
    assert_eval(bleep)
    with torch.inference_mode():
        together = bleep(images)
        alone = torch.cat([bleep(image[None]) for image in images])
        assert torch.equal(bleep(images), together)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


def test_twenty_spots_are_learned_by_heart():
    """The loss is enough: the nearest spot of each tile is then its own spot."""
    torch.manual_seed(3)
    model = networks.bleep(GENES, n_neighbors=1, projection_dim=WIDTH, dropout=0.0)
    images, labels = random(20, 3, 32, 32), random(20, GENES, seed=6)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    for _ in range(20):
        embeddings = model.encode_targets(images)[:, 0], model.encode_expression(labels)
        loss = contrastive_loss(*embeddings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    model.image_projection.eval()  # the backbone goes on with the statistics it was trained with
    with torch.no_grad():
        tokens = model.encode_targets(images)
        model.eval().set_reference_bank(torch.empty(0), labels)
        error = (model.predict_from_tokens(tokens) - labels).square().mean()
    assert float(error) < 0.1 * float(labels.var())
