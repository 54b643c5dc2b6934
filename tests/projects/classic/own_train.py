"""A training loop of the project's own, on the template's helpers, as people wrote them."""

import argparse
import logging
import os

import numpy as np
import torch
import torch.optim as optim
from tqdm import tqdm

import utils
import model.net as net
import model.data_loader as data_loader
from evaluate import evaluate

parser = argparse.ArgumentParser()
parser.add_argument('--data_dir', default='data/64x64_SIGNS')
parser.add_argument('--model_dir', default='experiments/base_model')


def train(model, optimizer, loss_fn, dataloader, metrics, params):
    model.train()
    summaries = []
    average = utils.RunningAverage()
    with tqdm(total=len(dataloader)) as bar:
        for i, (images, labels) in enumerate(dataloader):
            if len(labels) == 1:
                continue
            if params.cuda:
                images, labels = images.cuda(non_blocking=True), labels.cuda(non_blocking=True)
            outputs = model(images)
            loss = loss_fn(outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if i % params.save_summary_steps == 0:
                arrays = outputs.data.cpu().numpy(), labels.data.cpu().numpy()
                summaries.append({name: metric(*arrays) for name, metric in metrics.items()})
            average.update(loss.item())
            bar.set_postfix(loss='{:05.3f}'.format(average()))
            bar.update()
    logging.info("- Train metrics: {}".format({m: np.mean([s[m] for s in summaries]) for m in metrics}))


if __name__ == '__main__':
    args = parser.parse_args()
    params = utils.Params(os.path.join(args.model_dir, 'params.json'))
    params.cuda = torch.cuda.is_available()
    torch.manual_seed(230)
    utils.set_logger(os.path.join(args.model_dir, 'train.log'))
    loaders = data_loader.fetch_dataloader(['train', 'val'], args.data_dir, params)
    model = net.Net(params).cuda() if params.cuda else net.Net(params)
    optimizer = optim.Adam(model.parameters(), lr=params.learning_rate)
    best_accuracy = 0.0
    for epoch in range(params.num_epochs):
        logging.info("Epoch {}/{}".format(epoch + 1, params.num_epochs))
        train(model, optimizer, net.loss_fn, loaders['train'], net.metrics, params)
        results = evaluate(model, net.loss_fn, loaders['val'], net.metrics, params)
        is_best = results['accuracy'] >= best_accuracy
        state = {'epoch': epoch + 1, 'state_dict': model.state_dict(), 'optim_dict': optimizer.state_dict()}
        utils.save_checkpoint(state, is_best=is_best, checkpoint=args.model_dir)
        if is_best:
            best_accuracy = results['accuracy']
            utils.save_dict_to_json(results, os.path.join(args.model_dir, 'metrics_val_best_weights.json'))
        utils.save_dict_to_json(results, os.path.join(args.model_dir, 'metrics_val_last_weights.json'))
    utils.load_checkpoint(os.path.join(args.model_dir, 'best.pth.tar'), model, optimizer)
