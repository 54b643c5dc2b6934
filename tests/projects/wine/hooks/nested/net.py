

import torch


class TwoInputs(Net):
    def forward(self, inputs):
        x = torch.cat([inputs["acids"], inputs["others"]], dim=1)  # (B, 13)
        return {"logits": super().forward(x), "size": x.square().sum(dim=1)}


Net = TwoInputs


def loss_fn(outputs, labels):
    return F.cross_entropy(outputs["logits"], labels) + 1e-3 * outputs["size"].mean()


metrics = {"accuracy": lambda outputs, labels: accuracy(outputs["logits"], labels)}
